import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { AgentEvent } from '../logs/agent-log.ts'
import { launch } from '../process/launch.ts'
import { processEnvironment } from '../process/process-environment.ts'
import { RunningProcess } from '../process/running-process.ts'
import type { AgentState } from '../state.ts'
import { RUN_DIR } from '../system/identity.ts'
import { readServiceFile, type ServiceDefinition } from './service-file.ts'

const RESTART_DELAY_MS = 1000
const SERVICE_FILE = 'etc/e2b/services.json'

/** What the supervisor works with. */
export interface SupervisorParts {
  readonly state: AgentState
  readonly rootDir: string
  readonly nativeDir: string
  readonly path: string
  readonly log: (event: AgentEvent) => void
}

/** Keeps the services of the template running: one that ends is started again after a second. */
export class ServiceSupervisor {
  readonly #parts: SupervisorParts
  readonly #stateDir: string
  readonly #running = new Map<string, RunningProcess>()
  #definitions: readonly ServiceDefinition[] = []
  #closed = false

  constructor(parts: SupervisorParts) {
    this.#parts = parts
    this.#stateDir = join(parts.rootDir, RUN_DIR, 'services')
  }

  /** True when there is a service. */
  get isUsed(): boolean {
    return this.#definitions.length > 0
  }

  /** Reads the service file and starts what is new in it. What is wrong with it is logged. */
  async load(): Promise<void> {
    let definitions: readonly ServiceDefinition[]
    try {
      definitions = readServiceFile(join(this.#parts.rootDir, SERVICE_FILE))
    } catch (error) {
      this.#parts.log({ event: 'service_file_invalid', error: String(error) })
      return
    }
    const known = new Set(this.#definitions.map(({ name }) => name))
    this.#definitions = definitions
    for (const service of definitions) if (!known.has(service.name)) await this.#start(service)
  }

  /** Ends every service and starts none again. */
  close(): void {
    this.#closed = true
    for (const process of this.#running.values()) process.kill('SIGKILL')
  }

  async #start(service: ServiceDefinition): Promise<void> {
    if (this.#closed) return
    try {
      this.#killLeftover(service.name)
      const process = await this.#launch(service)
      this.#running.set(service.name, process)
      this.#remember(service.name, process.pid)
      this.#parts.log({ event: 'service_start', service: service.name, pid: process.pid })
      void process.ended.then((status) => this.#onEnd(service, process, status.status))
    } catch (error) {
      this.#parts.log({ event: 'service_failed', service: service.name, error: String(error) })
      this.#restartLater(service)
    }
  }

  async #launch(service: ServiceDefinition): Promise<RunningProcess> {
    const { state, nativeDir, path } = this.#parts
    const name = service.user ?? state.defaultUser
    const user = state.users.find(name)
    if (!user) throw new Error(`unknown user '${name}'`)
    const [command = '', ...args] = service.command
    const spec = {
      command,
      args,
      user,
      cwd: service.workdir ?? user.home,
      env: processEnvironment(path, user, state.env, service.env),
      maxProcesses: state.maxProcesses,
      stdin: false,
      logFile: join(this.#stateDir, `${service.name}.log`),
    }
    return new RunningProcess(await launch(spec, nativeDir), { cmd: command, args, envs: {} })
  }

  #onEnd(service: ServiceDefinition, process: RunningProcess, status: string): void {
    if (this.#running.get(service.name) === process) this.#running.delete(service.name)
    this.#parts.log({ event: 'service_end', service: service.name, status })
    for (const { name, partOf } of this.#definitions) {
      if (partOf === service.name) this.#running.get(name)?.kill('SIGTERM')
    }
    if (service.restart) this.#restartLater(service)
  }

  #restartLater(service: ServiceDefinition): void {
    if (this.#closed) return
    setTimeout(() => {
      // As the file says it now: it may have been read again meanwhile.
      const current = this.#definitions.find(({ name }) => name === service.name)
      if (current) void this.#start(current)
    }, RESTART_DELAY_MS)
  }

  /** An agent that was started again finds the services of the one before it, whose end it would not see. */
  #killLeftover(name: string): void {
    mkdirSync(this.#stateDir, { recursive: true })
    try {
      const [pid = '', startTime = ''] = readFileSync(this.#pidFile(name), 'utf8').split(' ')
      if (startTime && startTimeOf(Number(pid)) === startTime) globalThis.process.kill(Number(pid), 'SIGKILL')
    } catch {
      // No file or no such process: nothing is left over.
    }
  }

  #remember(name: string, pid: number): void {
    try {
      writeFileSync(this.#pidFile(name), `${pid} ${startTimeOf(pid) ?? ''}`)
    } catch {
      // The disk is full: the service runs all the same, and must not be taken for one that does not.
    }
  }

  #pidFile(name: string): string {
    return join(this.#stateDir, `${name}.pid`)
  }
}

/** Field 22 of /proc/<pid>/stat: with the pid it names one process for ever. */
function startTimeOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19]
  } catch {
    return undefined
  }
}
