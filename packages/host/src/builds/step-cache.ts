import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync } from 'node:fs'
import { readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { randomName } from '@sandbox/contract/ids'
import type { BuildContext, BuildStep } from './steps.ts'

/** What a base and the steps so far came to. */
export interface StepResult {
  /** Digests, bottom to top. */
  readonly layers: readonly string[]
  readonly context: BuildContext
}

const KEY = /^[0-9a-f]{64}$/
const FORGOTTEN_MS = 30 * 24 * 3_600_000

/**
 * Results of build steps by a chained hash of base and steps: a build that was interrupted, or whose last steps
 * changed, goes on where the equal part ends.
 */
export class StepCache {
  readonly #dir: string

  /** @param dir made if missing */
  constructor(dir: string) {
    this.#dir = dir
    mkdirSync(dir, { recursive: true, mode: 0o755 })
  }

  async get(key: string): Promise<StepResult | undefined> {
    const result = await this.#read(key)
    if (result) await utimes(this.#path(key), new Date(), new Date()).catch(() => {})
    return result
  }

  async put(key: string, result: StepResult): Promise<void> {
    const draft = join(this.#dir, `.${randomName(16)}`)
    await writeFile(draft, JSON.stringify(result))
    await rename(draft, this.#path(key))
  }

  /** Layers of all results that are kept. */
  async layerDigests(): Promise<Set<string>> {
    const results = await Promise.all(this.#keys().map((key) => this.#read(key)))
    return new Set(results.flatMap((result) => result?.layers ?? []))
  }

  /** Removes the results that no build has asked for in a month. */
  async dropForgotten(nowMs = Date.now()): Promise<void> {
    for (const key of this.#keys()) {
      const found = await stat(this.#path(key)).catch(() => undefined)
      if (found && nowMs - found.mtimeMs > FORGOTTEN_MS) await rm(this.#path(key), { force: true })
    }
  }

  #keys(): string[] {
    return readdirSync(this.#dir)
      .map((name) => name.replace(/\.json$/, ''))
      .filter((key) => KEY.test(key))
  }

  /** Missing or unreadable, both mean: run the step. */
  async #read(key: string): Promise<StepResult | undefined> {
    try {
      return JSON.parse(await readFile(this.#path(key), 'utf8')) as StepResult
    } catch {
      return undefined
    }
  }

  #path(key: string): string {
    if (!KEY.test(key)) throw new Error(`'${key}' is no key of a build step`)
    return join(this.#dir, `${key}.json`)
  }
}

/** The first link of the chain. */
export const baseKey = (base: StepResult): string => hash(['base', base.layers, sortedContext(base.context)])

/** The link of a step that follows `previous`. */
export const stepKey = (previous: string, step: BuildStep): string =>
  hash(['step', previous, step.type.toUpperCase(), step.args, step.filesHash])

const sortedContext = ({ envVars, user, workdir }: BuildContext): unknown => [
  Object.entries(envVars).sort(([a], [b]) => (a < b ? -1 : 1)),
  user,
  workdir,
]

const hash = (value: unknown): string => createHash('sha256').update(JSON.stringify(value)).digest('hex')
