import type { AgentLog, LogFields } from '../logs/agent-log.ts'
import type { ExitStatus } from './exit-status.ts'
import { type Launched, type LaunchSpec, launch } from './launch.ts'
import { type ProcessRequest, RunningProcess } from './running-process.ts'

const RETENTION_MS = 30_000
const RETENTION_LIMIT = 1024

/** Which process a client means. */
export type Selector = { readonly pid: number } | { readonly tag: string }

interface Ended {
  readonly pid: number
  readonly tag: string | undefined
  readonly status: ExitStatus
  readonly atMs: number
}

/** Every running process the agent started, and for 30 seconds how the ended ones ended. */
export class ProcessRegistry {
  readonly #nativeDir: string
  readonly #running = new Map<number, RunningProcess>()
  #ended: Ended[] = []
  readonly #log: AgentLog
  /** Called when a process starts or gets input: it may open a port. */
  onActivity: () => void = () => {}

  constructor(nativeDir: string, log: AgentLog) {
    this.#nativeDir = nativeDir
    this.#log = log
  }

  get running(): readonly RunningProcess[] {
    return [...this.#running.values()]
  }

  /** @throws LaunchError */
  async start(spec: LaunchSpec, request: ProcessRequest): Promise<RunningProcess> {
    const { tag, cmd, args } = request
    const said = { tag, cmd: [cmd, ...args].join(' '), user: spec.user.name, cwd: spec.cwd }
    const launched = await this.#launch(spec, said)
    const process = new RunningProcess(launched, request)
    this.#log.write('info', 'process', 'Process started', { pid: process.pid, ...said })
    this.#ended = this.#ended.filter((past) => past.pid !== process.pid && (!tag || past.tag !== tag))
    this.#running.set(process.pid, process)
    void process.ended.then((status) => this.#retain(process, status))
    this.onActivity()
    return process
  }

  find(selector: Selector): RunningProcess | undefined {
    if ('pid' in selector) return this.#running.get(selector.pid)
    return this.running.find((process) => process.request.tag === selector.tag)
  }

  /** How a process ended that is not running any more. */
  findEnded(selector: Selector): Ended | undefined {
    this.#forgetOld()
    return this.#ended.findLast((past) =>
      'pid' in selector ? past.pid === selector.pid : past.tag === selector.tag,
    )
  }

  async #launch(spec: LaunchSpec, said: LogFields): Promise<Launched> {
    try {
      return await launch(spec, this.#nativeDir)
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      this.#log.write('error', 'process', 'Process not started', { ...said, error: reason })
      throw error
    }
  }

  #retain(process: RunningProcess, status: ExitStatus): void {
    const { tag } = process.request
    const end = {
      pid: process.pid,
      tag,
      status: status.status,
      exit_code: status.exitCode,
      error: status.error,
    }
    this.#log.write('info', 'process', 'Process ended', end)
    if (this.#running.get(process.pid) === process) this.#running.delete(process.pid)
    this.#forgetOld()
    this.#ended.push({ pid: process.pid, tag: process.request.tag, status, atMs: performance.now() })
    if (this.#ended.length > RETENTION_LIMIT) this.#ended.shift()
  }

  #forgetOld(): void {
    const oldest = performance.now() - RETENTION_MS
    this.#ended = this.#ended.filter((past) => past.atMs >= oldest)
  }
}
