import { HostError } from '../host-error.ts'
import { isDiskFull } from '../linux/shortage.ts'
import type { Engine, EngineName, EngineReport } from './engine.ts'

/** What a template asks for: an engine by its name, or `auto`, the machine's own. */
export type Isolation = EngineName | 'auto'

/** An engine that this machine has installed, and what its probe found. */
export interface ProbedEngine {
  engine: Engine
  report: EngineReport
  /** The probe could not be made: the disks of sandboxes are full. That says nothing about the engine. */
  hasNoRoom?: boolean
}

/**
 * The engines of one machine. Nobody else chooses one: a template may ask for one, a running sandbox stays with its own.
 */
export class Engines {
  #probed: readonly ProbedEngine[]
  readonly #preferred: EngineName | undefined

  /**
   * @param probed strongest first
   * @param preferred the one that the operator names; undefined takes the strongest usable one
   * @param mayServeNothing where none has to start anything, as when all that is there is ended
   * @throws HostError unsupported when none is usable, or the named one is not; not where the disks are full, since
   * what fills them must be reachable
   */
  constructor(probed: readonly ProbedEngine[], preferred?: EngineName, mayServeNothing = false) {
    this.#probed = probed
    this.#preferred = preferred
    if (!mayServeNothing && !this.serving && !probed.some(({ hasNoRoom }) => hasNoRoom))
      throw new HostError('unsupported', this.#whyNone())
  }

  /** What their probes found, strongest first. */
  get reports(): readonly { name: EngineName; report: EngineReport }[] {
    return this.#probed.map(({ engine, report }) => ({ name: engine.name, report }))
  }

  /** Tries those again for which there was no room. @returns what it found of them; empty where there are none */
  async probeAgain(): Promise<readonly ProbedEngine[]> {
    const again = await probeEach(this.#probed.flatMap(({ engine, hasNoRoom }) => (hasNoRoom ? engine : [])))
    this.#probed = this.#probed.map((old) => again.find(({ engine }) => engine === old.engine) ?? old)
    return again
  }

  /** @param isolation what a template asks for; undefined takes the machine's. @throws HostError unsupported */
  for(isolation: Isolation | undefined): Engine {
    const wanted = isolation === undefined || isolation === 'auto' ? this.#preferred : isolation
    const engine = wanted === undefined ? this.serving : this.#find(wanted)
    if (engine) return engine
    const full = this.#probed.find((one) => one.hasNoRoom && (wanted ?? one.engine.name) === one.engine.name)
    if (full) {
      throw new HostError(
        'noRoom',
        `the disks of sandboxes were full when this host started, so that nobody knows whether ${full.engine.name} ` +
          'works: delete some, and it is tried again within a minute',
      )
    }
    throw new HostError(
      'unsupported',
      `engine '${wanted}' is not usable on this host; it has ${this.all.map(({ name }) => name).join(', ')}`,
    )
  }

  /**
   * The engine of something that was started before, whether it can start more or not; undefined when it is not
   * installed any more.
   */
  named(name: EngineName): Engine | undefined {
    return this.#probed.find(({ engine }) => engine.name === name)?.engine
  }

  /**
   * The one of sandboxes whose template asks for none. None where the strongest could not be tried for lack of room:
   * full disks must not give anybody a weaker wall.
   */
  get serving(): Engine | undefined {
    if (this.#preferred !== undefined) return this.#find(this.#preferred)
    const strongest = this.#probed.find(({ report, hasNoRoom }) => report.usable || hasNoRoom)
    return strongest?.report.usable ? strongest.engine : undefined
  }

  /** Installed and stronger than the one that serves, but not usable; empty where the operator has named that one. */
  get passedOver(): readonly { name: EngineName; report: EngineReport }[] {
    if (this.#preferred !== undefined) return []
    const at = this.reports.findIndex(({ report }) => report.usable)
    return at < 0 ? this.reports : this.reports.slice(0, at)
  }

  /** Those that start sandboxes. */
  get all(): readonly Engine[] {
    return this.#probed.filter(({ report }) => report.usable).map(({ engine }) => engine)
  }

  /** What memory of this machine's engines fits. */
  get hostClasses(): string[] {
    return this.all.map((engine) => engine.hostClass())
  }

  #find(name: EngineName): Engine | undefined {
    return this.all.find((engine) => engine.name === name)
  }

  #whyNone(): string {
    const wanted = this.reports.filter(({ name }) => !this.#preferred || name === this.#preferred)
    if (wanted.length === 0) return `engine '${this.#preferred}' is not installed`
    return wanted.map(({ name, report }) => `${name}: ${report.detail}. ${report.remedy}`).join('; ')
  }
}

/**
 * Boots something in each, one after the other. A probe that throws must not keep the others from serving.
 * @param again makes one that fails once more: a fault that passes, as of a machine that is busy while it comes up,
 * must not choose a weaker wall until the next start
 */
export async function probeEach(engines: readonly Engine[], again = false): Promise<ProbedEngine[]> {
  const probed: ProbedEngine[] = []
  for (const engine of engines) {
    const first = await probeOne(engine)
    const isSettled = !again || first.report.usable || first.hasNoRoom
    probed.push(isSettled ? first : await probeOne(engine))
  }
  return probed
}

async function probeOne(engine: Engine): Promise<ProbedEngine> {
  try {
    return { engine, report: await engine.probe() }
  } catch (error) {
    const hasNoRoom = isDiskFull(error)
    const detail = `its probe failed: ${(error as Error).message}`
    const remedy = hasNoRoom ? 'Delete sandboxes or make room for their disks' : ''
    return { engine, report: { usable: false, version: '', detail, remedy }, hasNoRoom }
  }
}
