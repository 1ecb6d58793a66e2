import { createHash } from 'node:crypto'
import { existsSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Where the distributions keep the authorities that Java trusts: Debian and Alpine, Fedora. */
const STORES = ['etc/ssl/certs/java/cacerts', 'etc/pki/java/cacerts']
/** The one that every distribution uses; a store of a user with another one is left alone. */
const PASSWORD = 'changeit'
const WHITENER = 'Mighty Aphrodite'
const MAGIC = 0xfeedfeed
const VERSION = 2
const HEADER_BYTES = 12
const DIGEST_BYTES = 20
const TRUSTED_CERTIFICATE = 2
const ALIAS = 'e2b-egress'

/** Makes Java trust an authority, where it keeps its own in a key store of type JKS. Idempotent. @param der DER */
export function trustInJava(rootDir: string, der: Buffer): void {
  for (const path of STORES.map((store) => join(rootDir, store)).filter(existsSync)) {
    const changed = withCertificate(readFileSync(path), der)
    if (!changed) continue
    // A Java that starts meanwhile reads the old or the new one, never a part.
    const next = `${path}.next`
    rmSync(next, { force: true })
    writeFileSync(next, changed, { mode: statSync(path).mode })
    renameSync(next, path)
  }
}

/** The store with one more certificate; undefined where it has it, or is nothing that can be added to. */
function withCertificate(store: Buffer, der: Buffer): Buffer | undefined {
  if (store.length < HEADER_BYTES + DIGEST_BYTES || store.includes(der)) return undefined
  const content = store.subarray(0, -DIGEST_BYTES)
  const isOurs =
    store.readUInt32BE(0) === MAGIC &&
    store.readUInt32BE(4) === VERSION &&
    digest(content).equals(store.subarray(-DIGEST_BYTES))
  if (!isOurs) return undefined
  const added = Buffer.concat([content, entry(der)])
  added.writeUInt32BE(store.readUInt32BE(8) + 1, 8)
  return Buffer.concat([added, digest(added)])
}

/** @param der in it, so that another authority gets another alias */
function entry(der: Buffer): Buffer {
  const alias = `${ALIAS}-${createHash('sha256').update(der).digest('hex').slice(0, 16)}`
  const time = Buffer.alloc(8)
  time.writeBigInt64BE(BigInt(Date.now()))
  return Buffer.concat([
    number(TRUSTED_CERTIFICATE),
    text(alias),
    time,
    text('X.509'),
    number(der.length),
    der,
  ])
}

function number(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

function text(value: string): Buffer {
  const length = Buffer.alloc(2)
  length.writeUInt16BE(value.length)
  return Buffer.concat([length, Buffer.from(value, 'latin1')])
}

const digest = (content: Buffer): Buffer =>
  createHash('sha1')
    .update(Buffer.from(PASSWORD, 'utf16le').swap16())
    .update(WHITENER)
    .update(content)
    .digest()
