import { execFileSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import {
  closeSync,
  existsSync,
  globSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { checked, libcFunction } from '../../../packages/host/src/linux/libc.ts'
import { clientEnvironment } from '../../../packages/server/src/commands/env.ts'
import type { Config } from '../../../packages/server/src/config.ts'
import { createTestServer, type TestServer } from './server.ts'

/** FS_IOC_SHUTDOWN: the file system writes nothing any more, its log included, as if its disk had lost power. */
const IOC_SHUTDOWN = 0x8004587d
const WITHOUT_LOG_FLUSH = 2
const DISK_MIB = 8192

const ioctl = libcFunction('ioctl', 'int', ['int', 'ulong', 'void *'])

const run = (program: string, ...args: string[]): string =>
  execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })

/**
 * A machine of its own, as far as a server can tell: a disk, /run, processes and a boot id that no other has. Its
 * network is this machine's, so that clients reach it. Losing power takes with it what no disk has been told.
 */
export class TestMachine {
  readonly server: TestServer
  readonly #dir = mkdtempSync(join(tmpdir(), 'e2b-machine-'))
  readonly #diskPath = join(this.#dir, 'disk.img')
  readonly #stateDir = join(this.#dir, 'state')
  readonly #bootIdPath = join(this.#dir, 'boot_id')
  #isOn = false

  /** @param index as of `createTestServer` */
  constructor(index: number) {
    run('truncate', '--size', `${DISK_MIB}M`, this.#diskPath)
    run('mkfs.ext4', '-q', this.#diskPath)
    mkdirSync(this.#stateDir)
    const settings = { E2B_STATE_DIR: this.#stateDir, E2B_POOL_MAX: '0', E2B_UPPERS_GIB: '4' }
    this.server = createTestServer(index, settings, (command) => this.#inside(command))
  }

  /** Starts it and its server; with another boot id each time. */
  async boot(): Promise<void> {
    writeFileSync(this.#bootIdPath, `${randomUUID()}\n`)
    await this.server.start()
    this.#isOn = true
  }

  /** The configuration of the server, with its state as it is seen from outside while the machine runs. */
  get config(): Config {
    return { ...this.server.config, stateDir: this.#seen(this.#stateDir) }
  }

  /** The environment of a client that talks to it. */
  get clientEnv(): Record<string, string> {
    return clientEnvironment(this.config, false)
  }

  /** Ends everything at once; what the disk was not told is lost. The disk is there for the next boot. */
  async losePower(): Promise<void> {
    const fd = openSync(this.#seen(this.#stateDir), 'r')
    const flags = Buffer.alloc(4)
    flags.writeUInt32LE(WITHOUT_LOG_FLUSH)
    try {
      checked(ioctl(fd, IOC_SHUTDOWN, flags), 'ioctl', this.#stateDir)
    } finally {
      closeSync(fd)
    }
    await this.#end()
  }

  async dispose(): Promise<void> {
    await this.#end()
    rmSync(this.#dir, { recursive: true })
  }

  /** A path of the machine: nobody else sees its mounts, or could keep them. */
  #seen(path: string): string {
    return join('/proc', this.#firstPid(), 'root', path)
  }

  #firstPid(): string {
    const pid = this.server.pid()
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  }

  /** All die with the first process of their namespace, and with the last of them go mounts and networks. */
  async #end(): Promise<void> {
    if (!this.#isOn) return
    this.#isOn = false
    process.kill(Number(this.#firstPid()), 'SIGKILL')
    await this.server.kill()
    await this.#removeShared()
    // A disk that is still in use would be mounted as it is, without power.
    await waitFor(() => !isAttached(this.#diskPath))
  }

  #inside(command: string[]): string[] {
    // The second /proc, with nothing over it, is why sandboxes may mount theirs.
    const script =
      'mount -o loop "$1" "$2" && shift 2 && mount -t tmpfs tmpfs /run && mkdir /run/proc && mount -t proc proc /run/proc && ' +
      'mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@"'
    const namespaces = ['--pid', '--fork', '--mount', '--mount-proc']
    return [
      'unshare',
      ...namespaces,
      'sh',
      '-c',
      script,
      'sh',
      this.#diskPath,
      this.#stateDir,
      this.#bootIdPath,
      ...command,
    ]
  }

  /** What a real machine would not have kept either: groups of the kernel and rules are this machine's here. */
  async #removeShared(): Promise<void> {
    const { instance } = this.server.config
    const groups = globSync(`/sys/fs/cgroup/{*/,}${instance}{/*,}`)
    const freezers = groups.filter((path) => path.startsWith('/sys/fs/cgroup/freezer/'))
    for (const path of [...freezers, ...groups].sort((a, b) => depth(b) - depth(a)))
      await waitFor(() => isGone(path))
    try {
      run('nft', 'delete', 'table', 'inet', instance)
    } catch {
      // It was ended before it had any.
    }
  }
}

const depth = (path: string): number => path.split('/').length

const GONE_WITHIN_MS = 10_000
const ASK_EVERY_MS = 20

async function waitFor(condition: () => boolean): Promise<void> {
  const deadline = Date.now() + GONE_WITHIN_MS
  while (!condition()) {
    if (Date.now() > deadline) throw new Error('the machine does not end')
    await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS))
  }
}

const isAttached = (path: string): boolean =>
  readdirSync('/sys/block').some(
    (name) => readIfThere(`/sys/block/${name}/loop/backing_file`).trim() === path,
  )

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

/** A group is busy until the last of its processes has been buried; what a pause has frozen cannot die. */
function isGone(path: string): boolean {
  if (existsSync(join(path, 'freezer.state'))) writeFileSync(join(path, 'freezer.state'), 'THAWED')
  if (existsSync(join(path, 'cgroup.freeze'))) writeFileSync(join(path, 'cgroup.freeze'), '0')
  try {
    rmdirSync(path)
    return true
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return true
    if (code === 'EBUSY') return false
    throw error
  }
}
