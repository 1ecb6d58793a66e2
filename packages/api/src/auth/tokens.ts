import { createCipheriv, createDecipheriv, createHmac } from 'node:crypto'
import { kernelRandomBytes } from '@sandbox/contract/ids'

const NONCE_BYTES = 12
const TAG_BYTES = 16

/** Secrets of sandboxes, derived from the server's seed: nothing of them is stored in clear. */
export class SandboxTokens {
  readonly #seed: string
  readonly #envKey: Buffer

  constructor(seed: string) {
    this.#seed = seed
    this.#envKey = createHmac('sha256', seed).update('sandbox-environment').digest()
  }

  /** What clients send to the agent; the same over the whole life of a sandbox. */
  envdToken(sandboxId: string): string {
    return this.#derive(sandboxId)
  }

  /** What clients send to other ports of a sandbox whose traffic is private. */
  trafficToken(sandboxId: string): string {
    return this.#derive(`sandbox-traffic-${sandboxId}`)
  }

  /** Environment variables in a form for the database. */
  sealEnv(sandboxId: string, env: Readonly<Record<string, string>>): string {
    if (Object.keys(env).length === 0) return ''
    const nonce = kernelRandomBytes(NONCE_BYTES)
    const cipher = createCipheriv('aes-256-gcm', this.#envKey, nonce).setAAD(Buffer.from(sandboxId))
    const sealed = Buffer.concat([cipher.update(JSON.stringify(env), 'utf8'), cipher.final()])
    return Buffer.concat([nonce, sealed, cipher.getAuthTag()]).toString('base64')
  }

  /** @throws when the text was not sealed for this sandbox with this seed */
  openEnv(sandboxId: string, sealed: string): Record<string, string> {
    if (sealed === '') return {}
    const bytes = Buffer.from(sealed, 'base64')
    const decipher = createDecipheriv('aes-256-gcm', this.#envKey, bytes.subarray(0, NONCE_BYTES))
      .setAAD(Buffer.from(sandboxId))
      .setAuthTag(bytes.subarray(-TAG_BYTES))
    const text =
      decipher.update(bytes.subarray(NONCE_BYTES, -TAG_BYTES), undefined, 'utf8') + decipher.final('utf8')
    return JSON.parse(text) as Record<string, string>
  }

  #derive(subject: string): string {
    return createHmac('sha256', this.#seed).update(subject).digest('hex')
  }
}
