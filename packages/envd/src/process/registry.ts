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
  /** Called when a process starts or gets input: it may open a port. */
  onActivity: () => void = () => {}

  constructor(nativeDir: string) {
    this.#nativeDir = nativeDir
  }

  get running(): readonly RunningProcess[] {
    return [...this.#running.values()]
  }

  /** @throws LaunchError */
  async start(spec: LaunchSpec, request: ProcessRequest): Promise<RunningProcess> {
    const launched: Launched = await launch(spec, this.#nativeDir)
    const process = new RunningProcess(launched, request)
    const { tag } = request
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

  #retain(process: RunningProcess, status: ExitStatus): void {
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
