/**
 * All contexts of the sandbox, and the default one of each language. Watches over Jupyter Server: when it or a
 * kernel is lost, the contexts that went with it are forgotten and the preloaded ones are made anew.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { Context, type ContextInfo } from './context.ts'
import { type JupyterClient, JupyterError } from './jupyter.ts'
import { DEFAULT_LANGUAGE, languageFor } from './languages.ts'
import type { SandboxEnvironment } from './sandbox-environment.ts'
import { settledWithin } from './settled-within.ts'

export interface ContextsOptions {
  /** Working directory of contexts that name none. */
  defaultCwd: string
  /** Languages whose default context is started ahead, where their kernel is installed. The first must be. */
  preload: readonly string[]
}

const RETRY_MS = 100
const DEFAULT_CONTEXT_TIMEOUT_MS = 60_000

export class Contexts {
  readonly #jupyter: JupyterClient
  readonly #environment: SandboxEnvironment
  readonly #options: ContextsOptions
  /** In order of creation. */
  readonly #contexts = new Map<string, Context>()
  readonly #defaults = new Map<string, Promise<Context>>()
  #recovery: Promise<void> | undefined
  #isReady = false
  #isClosed = false
  #knowsKernels = false

  constructor(jupyter: JupyterClient, environment: SandboxEnvironment, options: ContextsOptions) {
    this.#jupyter = jupyter
    this.#environment = environment
    this.#options = options
  }

  /** True while the preloaded contexts are there and have answered. */
  get isReady(): boolean {
    return this.#isReady
  }

  /** Waits for Jupyter Server, removes kernels that nobody knows, and starts the preloaded contexts. */
  start(): Promise<void> {
    this.#recovery ??= this.#recover().finally(() => {
      this.#recovery = undefined
    })
    return this.#recovery
  }

  list(): ContextInfo[] {
    return [...this.#contexts.values()].map((context) => context.info)
  }

  /** `default` is another name of the one for code that names neither context nor language. */
  async get(id: string): Promise<Context | undefined> {
    return id === 'default' ? this.#defaults.get(DEFAULT_LANGUAGE) : this.#contexts.get(id)
  }

  /** The context for code that names none. Started on first use. Rejects when its kernel cannot start. */
  async defaultFor(language: string): Promise<Context> {
    if (this.#recovery !== undefined) await settledWithin(this.#recovery, DEFAULT_CONTEXT_TIMEOUT_MS)
    const known = this.#defaults.get(language)
    if (known !== undefined) return known
    const created = this.create(language)
    this.#defaults.set(language, created)
    created.catch(() => this.#defaults.delete(language))
    return created
  }

  /** Starts a kernel and waits until it answers. Rejects with a message for the user. */
  async create(language: string, cwd = this.#options.defaultCwd): Promise<Context> {
    const id = await this.#startKernel(language)
    const context = new Context({ id, language, cwd }, this.#jupyter, this.#environment, (examined) =>
      this.#isKernelKnown(examined),
    )
    try {
      await context.warmUp()
    } catch (error) {
      await context.remove().catch(() => undefined)
      throw error
    }
    this.#contexts.set(id, context)
    return context
  }

  async #startKernel(language: string): Promise<string> {
    const { kernelName } = languageFor(language)
    try {
      return await this.#jupyter.startKernel(kernelName)
    } catch (error) {
      const installed = await this.#jupyter.kernelNames()
      if (installed.includes(kernelName)) throw error
      throw new JupyterError(
        404,
        `No kernel for ${language} is installed; installed are ${installed.join(', ')}`,
      )
    }
  }

  async remove(context: Context): Promise<void> {
    await context.remove()
    this.#forget(context)
  }

  close(): void {
    this.#isClosed = true
    this.#isReady = false
    for (const context of this.#contexts.values()) context.abandon()
    this.#contexts.clear()
  }

  /** Asks Jupyter Server. A context whose kernel it does not know (any more) is forgotten. */
  async #isKernelKnown(context: Context): Promise<boolean> {
    if (this.#isClosed) return false
    try {
      if (await this.#jupyter.knowsKernel(context.info.id)) return true
    } catch {
      this.#isReady = false
      for (const known of [...this.#contexts.values(), context]) known.abandon()
      this.#contexts.clear()
      this.#defaults.clear()
      void this.start()
      return false
    }
    context.abandon()
    this.#forget(context)
    void this.start()
    return false
  }

  #forget(context: Context): void {
    this.#contexts.delete(context.info.id)
    for (const [language, promise] of this.#defaults) {
      void promise.then(
        (value) =>
          value === context && this.#defaults.get(language) === promise && this.#defaults.delete(language),
        () => undefined,
      )
    }
  }

  async #recover(): Promise<void> {
    let told = ''
    while (!this.#isClosed) {
      try {
        if (!this.#knowsKernels) await this.#removeStrangers()
        this.#knowsKernels = true
        await this.#preload()
        this.#isReady = true
        return
      } catch (error) {
        const reason = String(error)
        if (reason !== told) process.stderr.write(`the kernels are not up yet: ${reason}\n`)
        told = reason
        await delay(RETRY_MS)
      }
    }
  }

  /** Kernels that an earlier life of this service left behind. */
  async #removeStrangers(): Promise<void> {
    const strangers = await this.#jupyter.listKernels()
    await Promise.all(strangers.map((kernel) => this.#jupyter.removeKernel(kernel.id)))
  }

  async #preload(): Promise<void> {
    const installed = new Set(await this.#jupyter.kernelNames())
    const [required, ...others] = this.#options.preload
    if (required !== undefined && !installed.has(languageFor(required).kernelName)) {
      throw new JupyterError(404, `No kernel for ${required} is installed`)
    }
    for (const language of [required, ...others]) {
      if (language === undefined || !installed.has(languageFor(language).kernelName)) continue
      if (this.#defaults.has(language)) continue
      try {
        const context = await this.create(language)
        this.#defaults.set(language, Promise.resolve(context))
      } catch (error) {
        // A broken kernel of another language takes the required one not along; its first use tells the error.
        if (language === required) throw error
        process.stderr.write(`the kernel of ${language} does not start: ${String(error)}\n`)
      }
    }
  }
}
