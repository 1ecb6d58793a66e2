import { HostError } from '../host-error.ts'
import type { Engine, EngineName, EngineReport } from './engine.ts'

/** What a template asks for: an engine by its name, or `auto`, the machine's own. */
export type Isolation = EngineName | 'auto'

/** An engine that this machine has installed, and what its probe found. */
export interface ProbedEngine {
  engine: Engine
  report: EngineReport
}

/** The engines of one machine. Nobody else chooses one: a template may ask for one, a running sandbox stays with its own. */
export class Engines {
  readonly #installed: readonly Engine[]
  readonly #usable: readonly Engine[]
  readonly #preferred: EngineName | undefined
  readonly reports: readonly { name: EngineName; report: EngineReport }[]

  /**
   * @param probed strongest first
   * @param preferred the one that the operator names; undefined takes the strongest usable one
   * @throws HostError unsupported when none is usable, or the named one is not
   */
  constructor(probed: readonly ProbedEngine[], preferred?: EngineName) {
    this.#installed = probed.map(({ engine }) => engine)
    this.#usable = probed.filter(({ report }) => report.usable).map(({ engine }) => engine)
    this.#preferred = preferred
    this.reports = probed.map(({ engine, report }) => ({ name: engine.name, report }))
    if (this.#usable.length === 0 || (preferred && !this.#find(preferred)))
      throw new HostError('unsupported', this.#whyNone())
  }

  /** @param isolation what a template asks for; undefined takes the machine's. @throws HostError unsupported */
  for(isolation: Isolation | undefined): Engine {
    const wanted = isolation === undefined || isolation === 'auto' ? this.#preferred : isolation
    const engine = wanted === undefined ? this.#usable[0] : this.#find(wanted)
    if (engine) return engine
    throw new HostError(
      'unsupported',
      `engine '${wanted}' is not usable on this host; it has ${this.#usable.map(({ name }) => name).join(', ')}`,
    )
  }

  /**
   * The engine of something that was started before, whether it can start more or not; undefined when it is not
   * installed any more.
   */
  named(name: EngineName): Engine | undefined {
    return this.#installed.find((engine) => engine.name === name)
  }

  /** Those that start sandboxes. */
  get all(): readonly Engine[] {
    return this.#usable
  }

  /** What memory of this machine's engines fits. */
  get hostClasses(): string[] {
    return this.#usable.map((engine) => engine.hostClass())
  }

  #find(name: EngineName): Engine | undefined {
    return this.#usable.find((engine) => engine.name === name)
  }

  #whyNone(): string {
    const wanted = this.reports.filter(({ name }) => !this.#preferred || name === this.#preferred)
    if (wanted.length === 0) return `engine '${this.#preferred}' is not installed`
    return wanted.map(({ name, report }) => `${name}: ${report.detail}. ${report.remedy}`).join('; ')
  }
}

/** Boots something in each, one after the other. */
export async function probeEach(engines: readonly Engine[]): Promise<ProbedEngine[]> {
  const probed: ProbedEngine[] = []
  for (const engine of engines) probed.push({ engine, report: await probeOne(engine) })
  return probed
}

/** A probe that throws must not keep the others from serving. */
async function probeOne(engine: Engine): Promise<EngineReport> {
  try {
    return await engine.probe()
  } catch (error) {
    return { usable: false, version: '', detail: `its probe failed: ${(error as Error).message}`, remedy: '' }
  }
}
