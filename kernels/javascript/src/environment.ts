/** What the interpreter service asks of the kernel between cells, silently; see `languages.ts` there. */
import { type AddEntropy, reseed } from './random.ts'

export interface Preparation {
  cwd?: string
  env?: Record<string, string>
  runEnv?: Record<string, string>
  reseed?: boolean
}

export class Environment {
  readonly #addEntropy: AddEntropy
  readonly #renewWorkers: () => void
  #saved: Record<string, string | undefined> = {}

  constructor(addEntropy: AddEntropy, renewWorkers: () => void) {
    this.#addEntropy = addEntropy
    this.#renewWorkers = renewWorkers
  }

  prepare({ cwd, env, runEnv, reseed: isCopy }: Preparation): void {
    if (cwd !== undefined) changeDirectory(cwd)
    Object.assign(process.env, env)
    if (runEnv !== undefined) {
      this.#saved = Object.fromEntries(Object.keys(runEnv).map((name) => [name, process.env[name]]))
      Object.assign(process.env, runEnv)
    }
    if (isCopy) {
      reseed(this.#addEntropy)
      this.#renewWorkers()
    }
  }

  /** Takes the variables of the last execution back: each to what it was before. */
  restore(): void {
    for (const [name, value] of Object.entries(this.#saved)) {
      if (value === undefined) delete process.env[name]
      else process.env[name] = value
    }
    this.#saved = {}
  }
}

function changeDirectory(path: string): void {
  try {
    process.chdir(path)
  } catch {
    // A context may name a directory that is gone; its code still runs.
  }
}
