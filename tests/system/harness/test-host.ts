import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type Client, createClient } from '@connectrpc/connect'
import { createConnectTransport } from '@connectrpc/connect-node'
import { Host } from '../../../packages/contract/gen/host/host_pb.js'
import { runCommand } from '../../../packages/host/src/agent/agent-process.ts'
import { loadConfig } from '../../../packages/server/src/config.ts'

const program = join(import.meta.dirname, 'host-process.ts')
const main = join(import.meta.dirname, '../../../packages/server/src/main.ts')
const LIVES_MS = 600_000

/** A host without a control plane: sandboxes are started and addressed as the control plane does it. */
export class TestHost {
  readonly stateDir: string
  readonly snapshotId: string
  readonly runDir: string
  readonly instance: string
  readonly #environment: Record<string, string>
  #child: ChildProcess | undefined
  #client: Client<typeof Host> | undefined
  log = ''

  /** @param index 0 to 9, different for hosts that run at once */
  constructor(index: number) {
    this.stateDir = join(tmpdir(), `e2b-host-${index}-${randomUUID()}`)
    this.instance = `hst${index}`
    this.runDir = `/run/e2b-${this.instance}`
    const { imagesDir } = loadConfig()
    this.#environment = {
      E2B_INSTANCE: this.instance,
      E2B_STATE_DIR: this.stateDir,
      E2B_IMAGES_DIR: imagesDir,
      E2B_RUN_DIR: this.runDir,
      E2B_ADDRESS_RANGE: `10.${140 + index}.0.0/16`,
      E2B_UID_BASE: String(0x50000000 + index * 0x01000000),
      E2B_UPPERS_GIB: '16',
      E2B_POOL_MAX: '0',
      E2B_CONFIG: '/dev/null',
      E2B_ISOLATION: process.env.E2B_ISOLATION ?? 'container',
    }
    const snapshots = readdirSync(join(imagesDir, 'snapshots')).filter((name) => /^[0-9a-f]/.test(name))
    this.snapshotId = snapshots[0]!
  }

  get client(): Client<typeof Host> {
    if (!this.#client) throw new Error('the host is not started')
    return this.#client
  }

  /** @param extra settings that stay with this host */
  async start(extra: Record<string, string> = {}): Promise<void> {
    Object.assign(this.#environment, extra)
    mkdirSync(this.stateDir, { recursive: true })
    const child = spawn(process.execPath, [program], {
      env: { ...process.env, ...this.#environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.#child = child
    child.stderr.on('data', (chunk: Buffer) => {
      this.log += chunk.toString()
    })
    const port = await new Promise<string>((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (line.startsWith('Ready ')) resolve(line.slice(6))
      })
      child.once('exit', (code) =>
        reject(new Error(`the host ended with ${code}:\n${this.log.slice(-3000)}`)),
      )
    })
    const transport = createConnectTransport({ baseUrl: `http://127.0.0.1:${port}`, httpVersion: '1.1' })
    this.#client = createClient(Host, transport)
  }

  async kill(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#child
    if (!child || child.exitCode !== null || child.signalCode !== null) return
    const exited = once(child, 'exit')
    child.kill(signal)
    await exited
  }

  /** Starts a sandbox and answers its address. */
  async run(sandboxId: string, changes: Record<string, unknown> = {}): Promise<string> {
    const answer = await this.client.start({
      sandboxId,
      snapshotId: this.snapshotId,
      config: { allowInternetAccess: false, resources: { memoryMib: 2048, diskMib: 1024 }, templateId: 't' },
      endAt: { seconds: BigInt(Math.floor((Date.now() + LIVES_MS) / 1000)), nanos: 0 },
      skipPool: true,
      ...changes,
    })
    return answer.sandbox!.address
  }

  async address(sandboxId: string): Promise<string | undefined> {
    const { sandboxes } = await this.client.list({})
    return sandboxes.find((one) => one.sandboxId === sandboxId)?.address
  }

  /** Ends everything and removes what it made, also of a host that never came up. Idempotent. */
  async dispose(): Promise<void> {
    await this.kill('SIGTERM')
    try {
      if (this.#client) await this.start({ E2B_ON_SHUTDOWN: 'kill' })
      await this.kill('SIGTERM')
    } finally {
      await this.#teardown()
      rmSync(this.stateDir, { recursive: true, force: true })
      rmSync(this.runDir, { recursive: true, force: true })
    }
  }

  /** On the engine that every machine has: another may be why the host did not come up. */
  async #teardown(): Promise<void> {
    const teardown = spawn(process.execPath, [main, 'teardown'], {
      env: { ...process.env, ...this.#environment, E2B_ISOLATION: 'container' },
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const [code] = (await once(teardown, 'exit')) as [number | null]
    if (code !== 0) throw new Error(`the teardown of ${this.instance} ended with ${code}`)
  }
}

/** Runs a shell command as root in a sandbox; answers what it printed. */
export async function shell(address: string, script: string, signal?: AbortSignal): Promise<string> {
  const printed: string[] = []
  const command = { cmd: '/bin/bash', args: ['-c', script], user: 'root', cwd: '/', envs: {} }
  const end = await runCommand(address, command, (_stream, line) => printed.push(line), signal)
  if (end.exitCode !== 0) throw new Error(`${script}: ${end.status}: ${printed.join('\n')}`)
  return printed.join('\n').trim()
}
