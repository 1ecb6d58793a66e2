import { isAbsolute, normalize } from 'node:path/posix'
import { ApiError } from '@sandbox/contract/errors'
import type { SandboxNetworkConfig } from '@sandbox/contract/rest/network'
import { checkNetworkConfig, normaliseNetworkConfig } from '@sandbox/contract/rest/network-rules'
import type { NewSandboxV2 } from '@sandbox/contract/rest/sandboxes'
import type { Features } from '../options.ts'
import type { Ingress } from './running.ts'

/** What is kept of a create request for answers and later starts, as JSON in the sandbox's row. */
export interface SandboxSettings {
  readonly network?: SandboxNetworkConfig
  readonly allowInternetAccess: boolean | null
  readonly autoPause: boolean
  readonly autoPauseMemory: boolean
  readonly autoResume: boolean
  readonly volumeMounts?: { readonly name: string; readonly path: string }[]
}

/** Begins the name of a secret or token in the value of a header. */
const PLACEHOLDER = `\${e2b.`

/** Of names and values. A page of a list has the metadata of a hundred sandboxes. */
const MAX_METADATA_BYTES = 256 * 1024
/** Linux gives no program more than 2 MiB of arguments and environment. */
const MAX_ENV_BYTES = 1024 * 1024

const refuse = (message: string): never => {
  throw new ApiError('badRequest', message)
}

/** @throws ApiError 400 when a lifetime is over the team's limit */
export function checkLongestTimeout(timeoutSeconds: number, maxHours: number): void {
  if (timeoutSeconds > maxHours * 3600) refuse(`Timeout cannot be greater than ${maxHours} hours`)
}

/** @throws ApiError 400 when a lifetime is not above 0 or over the team's limit */
export function checkTimeout(timeoutSeconds: number, maxHours: number): void {
  if (timeoutSeconds <= 0) refuse('Timeout must be greater than 0')
  checkLongestTimeout(timeoutSeconds, maxHours)
}

/** @throws ApiError 400 invalid, 403 a feature that is off */
export function checkNetwork(network: SandboxNetworkConfig, features: Features): void {
  const networkError = checkNetworkConfig(network)
  if (networkError) refuse(networkError)
  if (network.egressProxy && !features.egressProxy) {
    throw new ApiError('forbidden', 'egressProxy is not available on this server.')
  }
  if (Object.keys(network.rules ?? {}).length > 0 && !features.networkRules) {
    refuse('network.rules are not available on this server.')
  }
  // Nothing here resolves them yet, and a header must never go out with the placeholder in it.
  if (JSON.stringify(network.rules ?? {}).includes(PLACEHOLDER)) {
    refuse('Secrets and identity tokens in network.rules are not available on this server: give the values.')
  }
}

function checkFeatures(body: NewSandboxV2, features: Features): void {
  if (body.volumeMounts?.length && !features.volumes) refuse('Volumes are not available on this server.')
  if (Object.keys(body.iam?.tokens ?? {}).length > 0 && !features.iam) {
    refuse('iam.tokens are not available on this server.')
  }
}

function checkVolumeMounts(mounts: readonly { name: string; path: string }[]): void {
  for (const { path } of mounts) {
    if (!isAbsolute(path) || normalize(path) !== path || path === '/') {
      refuse(`Volume mount path '${path}' must be absolute and clean`)
    }
  }
  if (new Set(mounts.map(({ path }) => path)).size < mounts.length)
    refuse('Volume mount paths must be unique')
}

/** PostgreSQL cannot hold NUL in text, and a process cannot in its environment. */
function checkStrings(name: string, map: Readonly<Record<string, string>>, maxBytes: number): void {
  let bytes = 0
  for (const [key, value] of Object.entries(map)) {
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value)
    if (bytes > maxBytes) refuse(`${name} must be at most ${maxBytes} bytes together`)
    if (key.includes('\0') || value.includes('\0')) refuse(`${name} must not contain NUL characters`)
    if (name === 'envVars' && (key === '' || key.includes('='))) refuse(`'${key}' is not a name of an envVar`)
  }
}

/**
 * Checks what the schema of a create request cannot say.
 * @throws ApiError 400 invalid, 403 a feature that is off
 */
export function readSettings(body: NewSandboxV2, features: Features): SandboxSettings {
  checkStrings('metadata', body.metadata ?? {}, MAX_METADATA_BYTES)
  checkStrings('envVars', body.envVars ?? {}, MAX_ENV_BYTES)
  checkVolumeMounts(body.volumeMounts ?? [])
  if (body.network) checkNetwork(body.network, features)
  const autoPause = body.autoPause ?? false
  const autoPauseMemory = body.autoPauseMemory ?? true
  const autoResume = body.autoResume?.enabled ?? false
  if (!autoPauseMemory && !autoPause) refuse('autoPauseMemory: false needs autoPause')
  if (!autoPauseMemory && autoResume) refuse('autoPauseMemory: false cannot be combined with autoResume')
  checkFeatures(body, features)
  return {
    autoPause,
    autoPauseMemory,
    autoResume,
    allowInternetAccess: body.allow_internet_access ?? null,
    ...(body.network ? { network: normaliseNetworkConfig(body.network) } : {}),
    ...(body.volumeMounts?.length ? { volumeMounts: body.volumeMounts } : {}),
  }
}

/** How traffic reaches a sandbox with these settings. */
export function ingressOf({ network, autoResume }: SandboxSettings): Ingress {
  return {
    isPrivate: network?.allowPublicTraffic === false,
    httpsPorts: network?.httpsPorts ?? [],
    wakes: autoResume,
    ...(network?.maskRequestHost ? { maskRequestHost: network.maskRequestHost } : {}),
  }
}
