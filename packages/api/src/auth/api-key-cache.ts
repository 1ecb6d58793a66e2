import { hash } from 'node:crypto'
import type { KeyOwner } from '@sandbox/store/api-keys'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'

const MAX_CACHED_KEYS = 10_000
const LAST_USED_PRECISION_MS = 60_000

/** SHA-256 of an API key in hex: the form in which keys are stored and looked up. */
export const hashApiKey = (key: string): string => hash('sha256', key, 'hex')

/** Finds the team of an API key. Remembers owners until the store says that something changed; never raw keys. */
export class ApiKeyCache {
  readonly #store: Store
  readonly #logger: Logger
  readonly #owners = new Map<string, KeyOwner>()
  readonly #lastUsed = new Map<string, number>()
  #version = Number.NaN

  constructor(store: Store, logger: Logger) {
    this.#store = store
    this.#logger = logger
  }

  async findOwner(key: string): Promise<KeyOwner | undefined> {
    const version = this.#store.version()
    if (version !== this.#version) {
      this.#owners.clear()
      this.#version = version
    }
    const keyHash = hashApiKey(key)
    const owner = this.#owners.get(keyHash) ?? (await this.#load(keyHash, version))
    if (owner) this.#markUsed(owner.keyId)
    return owner
  }

  async #load(keyHash: string, version: number): Promise<KeyOwner | undefined> {
    const owner = await this.#store.apiKeys.findOwner(keyHash)
    if (owner && version === this.#version) {
      if (this.#owners.size >= MAX_CACHED_KEYS) this.#owners.clear()
      this.#owners.set(keyHash, owner)
    }
    return owner
  }

  #markUsed(keyId: string): void {
    const now = Date.now()
    if (now - (this.#lastUsed.get(keyId) ?? 0) < LAST_USED_PRECISION_MS) return
    if (this.#lastUsed.size >= MAX_CACHED_KEYS) this.#lastUsed.clear()
    this.#lastUsed.set(keyId, now)
    this.#store.apiKeys
      .markUsed(keyId, now)
      .catch((error) => this.#logger.warn({ err: error, keyId }, 'last use of a key not recorded'))
  }
}
