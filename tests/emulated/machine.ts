import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { isGone, Qmp } from '../../packages/host/src/engines/microvm/qmp.ts'
import type { MachineDisks } from './machine-disks.ts'
import type { MachineImage } from './machine-image.ts'
import { nudge } from './nudge.ts'

/**
 * A whole machine in software: an AMD processor with working virtualization, a Debian kernel with cgroup v2 and
 * `/dev/kvm`, in it our host role. Nothing of the real machine's kernel takes part, so what passes here does not
 * depend on it. It is about fifteen times slower than the processor below; its timings say nothing.
 */

export interface MachineOptions {
  /** See ensureEmulator. */
  emulator: readonly string[]
  image: MachineImage
  disks: MachineDisks
  memoryMib: number
  processors: number
  /** Passed to the program inside. */
  options: Readonly<Record<string, unknown>>
  /** Memory that `keep` wrote of a machine with copies of the same disks: it goes on instead of booting. */
  memoryPath?: string
  /** For the control sockets: a directory with a short name. */
  dir: string
  /** Each line of the console that is no report. */
  onConsole: (line: string) => void
  /** Each report of the program inside. */
  onReport: (report: Record<string, unknown>) => void
  limitMs: number
}

/** Before a line of the console that is a report of the program inside, in JSON. */
const REPORT_PREFIX = '@@ '
const CONTROL_WITHIN_MS = 120_000
const LOOKS_EVERY_MS = 200
const NO_LIMIT_BYTES_PER_SECOND = 2 ** 40

type Process = ChildProcessByStdio<Writable, Readable, Readable>

export class Machine {
  /** Resolves when it is off. Rejects when that takes longer than `limitMs`, or when QEMU fails. */
  readonly off: Promise<void>
  readonly #process: Process
  readonly #controlPath: string
  #hasEnded = false

  constructor(options: MachineOptions) {
    this.#controlPath = join(options.dir, 'control')
    // Ends with this process, however that ends.
    const nudgePath = join(options.dir, 'nudge')
    const argv = [
      '--pdeathsig',
      'KILL',
      ...options.emulator,
      ...qemuArguments(options, this.#controlPath, nudgePath),
    ]
    this.#process = spawn('setpriv', argv, { stdio: ['pipe', 'pipe', 'pipe'] })
    this.#process.stdin.on('error', () => {
      // It is off: `off` says why.
    })
    readConsole(this.#process, options)
    createInterface({ input: this.#process.stderr }).on('line', options.onConsole)
    this.off = whenOff(this.#process, options.limitMs)
    const hasEnded = (): void => {
      this.#hasEnded = true
    }
    // Told to whoever waits for it; nobody has to at this moment.
    this.off.then(hasEnded, hasEnded)
    void nudge(nudgePath, () => this.#hasEnded)
  }

  /** A line for the program inside, once it runs: what comes while memory is read is lost in part. */
  async tell(order: object): Promise<void> {
    await this.#control((qmp) => until(qmp, 'query-status', 'running'))
    this.#process.stdin.write(`${JSON.stringify(order)}\n`)
  }

  /** Writes its memory, and turns it off without its noticing. Its disks then belong to that memory. */
  async keep(memoryPath: string): Promise<void> {
    await this.#control(async (qmp) => {
      await qmp.execute('migrate-set-parameters', { 'max-bandwidth': NO_LIMIT_BYTES_PER_SECOND })
      await qmp.execute('migrate', { uri: `exec:cat > ${memoryPath}` })
      await until(qmp, 'query-migrate', 'completed')
      await qmp.execute('quit')
    })
    await this.off
  }

  /** Whatever is under way in it. */
  end(): void {
    this.#process.kill('SIGKILL')
  }

  /** QEMU opens its socket a moment after it was started. */
  async #control(action: (qmp: Qmp) => Promise<void>): Promise<void> {
    for (;;) {
      try {
        return await Qmp.with(this.#controlPath, CONTROL_WITHIN_MS, action)
      } catch (error) {
        if (!isGone(error) || this.#hasEnded) throw error
        await delay(LOOKS_EVERY_MS)
      }
    }
  }
}

/** @throws Error when it comes to `failed` instead */
async function until(qmp: Qmp, question: string, wanted: string): Promise<void> {
  for (;;) {
    const { status } = (await qmp.execute(question)) as { status?: string }
    if (status === wanted) return
    if (status === 'failed') throw new Error(`${question}: QEMU could not write the memory of the machine`)
    await delay(LOOKS_EVERY_MS)
  }
}

async function whenOff(child: Process, limitMs: number): Promise<void> {
  const timer = setTimeout(() => child.kill('SIGKILL'), limitMs)
  const ended = Promise.withResolvers<{ code: number | null; signal: string | null }>()
  child.on('error', (error) => ended.reject(new Error(`setpriv cannot be run: ${error.message}`)))
  child.on('close', (code, signal) => ended.resolve({ code, signal }))
  try {
    const { code, signal } = await ended.promise
    if (signal) throw new Error(`the emulated machine was not off after ${limitMs / 1000} s`)
    if (code !== 0) throw new Error(`QEMU ended with ${code}`)
  } finally {
    clearTimeout(timer)
  }
}

function readConsole(child: Process, { onConsole, onReport }: MachineOptions): void {
  createInterface({ input: child.stdout }).on('line', (raw) => {
    const line = raw.replace(/\r$/, '')
    const at = line.indexOf(REPORT_PREFIX)
    if (at < 0) return onConsole(line)
    try {
      onReport(JSON.parse(line.slice(at + REPORT_PREFIX.length)) as Record<string, unknown>)
    } catch {
      onConsole(line)
    }
  })
}

function qemuArguments(
  { image, disks, memoryMib, processors, memoryPath, options }: MachineOptions,
  controlPath: string,
  nudgePath: string,
): string[] {
  const encoded = Buffer.from(JSON.stringify(options)).toString('base64url')
  const drive = (file: string, more: string): string[] => [
    '-drive',
    `file=${file},format=raw,if=virtio,${more}`,
  ]
  return [
    ...['-accel', 'tcg,thread=multi', '-machine', 'q35', '-cpu', 'EPYC,+svm,+npt'],
    ...['-smp', String(processors), '-m', String(memoryMib), '-nographic', '-no-reboot', '-nic', 'none'],
    ...['-serial', 'stdio', '-monitor', 'none'],
    ...[controlPath, nudgePath].flatMap((path) => ['-qmp', `unix:${path},server=on,wait=off`]),
    ...['-kernel', image.kernelPath, '-initrd', image.initramfsPath],
    ...['-append', `console=ttyS0 panic=-1 quiet loglevel=4 rdinit=/init e2b.options=${encoded}`],
    ...drive(image.rootPath, 'readonly=on'),
    ...drive(disks.repoPath, 'readonly=on'),
    ...drive(disks.imagesPath, 'readonly=on'),
    ...drive(disks.statePath, 'cache=unsafe,discard=unmap'),
    ...(memoryPath === undefined ? [] : ['-incoming', `exec:cat ${memoryPath}`]),
  ]
}
