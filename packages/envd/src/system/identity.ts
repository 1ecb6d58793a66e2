import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setHostname } from './kernel.ts'

/** What makes a clone its own machine. Absent fields leave what is there. */
export interface Identity {
  readonly hostname?: string | undefined
  /** 32 hexadecimal digits. */
  readonly machineId?: string | undefined
  /** UUID that the guest reads as the kernel's boot id. */
  readonly bootId?: string | undefined
  /** New UUID for every start; services that see it change reseed and reload their environment. */
  readonly generation?: string | undefined
  readonly sandboxId?: string | undefined
  readonly templateId?: string | undefined
  /** IPv4 address at which the host takes what sandboxes report. */
  readonly eventsAddress?: string | undefined
}

/** Directory of the files by which programs recognise the sandbox. */
export const RUN_DIR = 'run/e2b'
const HOSTS_ADDRESS = '127.0.1.1'
const EVENTS_HOST = 'events.e2b.local'

/** Writes the identity with a few synchronous calls: nothing else may run before it is complete. */
export function writeIdentity(rootDir: string, identity: Identity): void {
  const runDir = join(rootDir, RUN_DIR)
  mkdirSync(runDir, { recursive: true })
  if (identity.hostname) writeHostname(rootDir, identity.hostname)
  if (identity.hostname || identity.eventsAddress) writeHosts(rootDir, identity)
  if (identity.machineId) replaceFile(join(rootDir, 'etc/machine-id'), `${identity.machineId}\n`, 0o444)
  if (identity.bootId) overwriteInPlace(join(runDir, 'boot_id'), `${identity.bootId}\n`)
  for (const [name, value] of Object.entries(systemEnv(identity)))
    writeFileSync(join(runDir, `.${name}`), value)
  if (identity.generation) {
    replaceFile(join(runDir, '.generation'), JSON.stringify({ generation: identity.generation }), 0o644)
  }
}

/** The variables that tell a process about its sandbox. */
export function systemEnv(identity: Identity): Record<string, string> {
  return {
    E2B_SANDBOX: 'true',
    ...(identity.sandboxId ? { E2B_SANDBOX_ID: identity.sandboxId } : {}),
    ...(identity.templateId ? { E2B_TEMPLATE_ID: identity.templateId } : {}),
    ...(identity.eventsAddress ? { E2B_EVENTS_ADDRESS: `http://${identity.eventsAddress}` } : {}),
  }
}

function writeHostname(rootDir: string, name: string): void {
  writeFileSync(join(rootDir, 'etc/hostname'), `${name}\n`)
  if (rootDir !== '/' || hostname() === name) return
  try {
    setHostname(name)
  } catch {
    // The engine set the name already, or the sandbox may not: the files above are what counts.
  }
}

function writeHosts(rootDir: string, { hostname: name, eventsAddress }: Identity): void {
  const file = join(rootDir, 'etc/hosts')
  const isReplaced = ([address, ...names]: string[]): boolean =>
    (name !== undefined && address === HOSTS_ADDRESS) ||
    (eventsAddress !== undefined && names.includes(EVENTS_HOST))
  const kept = readLines(file).filter((line) => line && !isReplaced(line.split(/\s+/)))
  const lines = kept.length > 0 ? kept : ['127.0.0.1 localhost']
  if (name) lines.push(`${HOSTS_ADDRESS} ${name}`)
  if (eventsAddress) lines.push(`${eventsAddress} ${EVENTS_HOST}`)
  writeFileSync(file, `${lines.join('\n')}\n`)
}

function readLines(file: string): string[] {
  try {
    return readFileSync(file, 'utf8').split('\n')
  } catch {
    return []
  }
}

/** Readers see the old or the new content, never a part. */
function replaceFile(file: string, content: string, mode: number): void {
  const next = `${file}.next`
  rmSync(next, { force: true })
  writeFileSync(next, content, { mode })
  renameSync(next, file)
}

/** The file is mounted over another path, so it must stay the same file; its length never changes. */
function overwriteInPlace(file: string, content: string): void {
  let fd: number
  try {
    fd = openSync(file, 'r+')
  } catch {
    writeFileSync(file, content, { mode: 0o644 })
    return
  }
  try {
    writeSync(fd, content, 0)
  } finally {
    closeSync(fd)
  }
}
