import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { ENGINE_NAMES } from '@sandbox/host/engines/engine'

/**
 * All configuration, in one place. Each setting has a default, and is read from the configuration file,
 * then the environment, then the command line; the last one given wins. `e2b-server up --help` prints the table.
 */

interface Setting<T> {
  readonly env: string
  readonly flag: string
  readonly doc: string
  readonly default: T
  readonly parse: (text: string) => T
}

class ConfigError extends Error {}

const text = (env: string, flag: string, fallback: string, doc: string): Setting<string> => ({
  env,
  flag,
  doc,
  default: fallback,
  parse: (value) => value,
})

/** A file or directory, made absolute as mounts are; empty for none. */
const place = (env: string, flag: string, fallback: string, doc: string): Setting<string> => ({
  ...text(env, flag, fallback, doc),
  parse: (value) => value && resolve(value),
})

function integer(
  env: string,
  flag: string,
  fallback: number,
  doc: string,
  min = 0,
  max = Number.MAX_SAFE_INTEGER,
): Setting<number> {
  const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`
  const parse = (value: string): number => {
    const number = Number(value)
    if (value.trim() === '' || !Number.isInteger(number) || number < min || number > max) {
      throw new ConfigError(`${env} (${flag}) must be a whole number ${range}, not '${value}'`)
    }
    return number
  }
  return { env, flag, doc, default: fallback, parse }
}

const port = (env: string, flag: string, fallback: number, doc: string): Setting<number> =>
  integer(env, flag, fallback, doc, 1, 65_535)

function oneOf<T extends string>(env: string, flag: string, values: readonly T[], doc: string): Setting<T> {
  const parse = (value: string): T => {
    const found = values.find((known) => known === value)
    if (!found) throw new ConfigError(`${env} (${flag}) must be one of ${values.join(', ')}, not '${value}'`)
    return found
  }
  return { env, flag, doc, default: values[0]!, parse }
}

const settings = {
  domain: text('E2B_DOMAIN', '--domain', 'e2b.localhost:3443', 'Domain that clients use, with its port'),
  stateDir: place('E2B_STATE_DIR', '--state-dir', '/var/lib/e2b', 'Database, journal, images, certificates'),
  imagesDir: place('E2B_IMAGES_DIR', '--images-dir', '', 'Layers and snapshots; default <state-dir>/images'),
  runDir: place('E2B_RUN_DIR', '--run-dir', '/run/e2b', 'What lives until the next boot: mounts, slots'),
  instance: text(
    'E2B_INSTANCE',
    '--instance',
    'e2b',
    'Prefix of every kernel object; at most 6 letters and digits',
  ),
  addressRange: text(
    'E2B_ADDRESS_RANGE',
    '--address-range',
    '10.11.0.0/16',
    'Addresses of the sandbox slots',
  ),
  uidBase: integer('E2B_UID_BASE', '--uid-base', 0x70000000, 'First host uid given to sandboxes', 65536),
  bind: text('E2B_BIND', '--bind', '127.0.0.1', 'Address that the TLS listener binds'),
  httpsPort: port('E2B_HTTPS_PORT', '--https-port', 3443, 'TLS listener: API and sandboxes by host name'),
  apiPort: port('E2B_API_PORT', '--api-port', 3000, 'Plain HTTP API on the loopback interface'),
  proxyPort: port('E2B_PROXY_PORT', '--proxy-port', 3002, 'Plain HTTP sandbox proxy, routed by headers'),
  databaseUrl: text('DATABASE_URL', '--database-url', '', 'PostgreSQL; default SQLite in <state-dir>'),
  isolation: oneOf(
    'E2B_ISOLATION',
    '--isolation',
    ['auto', ...ENGINE_NAMES],
    'Engine; auto takes the strongest that boots',
  ),
  microvmMonitor: oneOf(
    'E2B_MICROVM_MONITOR',
    '--microvm-monitor',
    ['auto', 'firecracker', 'qemu'],
    'Monitor of microVMs; auto takes the first that boots',
  ),
  firecracker: place(
    'E2B_FIRECRACKER',
    '--firecracker',
    '',
    'Firecracker of your own, static; default the installed',
  ),
  jailer: place('E2B_JAILER', '--jailer', '', 'Its jailer, of the same version; default the installed'),
  guestKernel: text(
    'E2B_GUEST_KERNEL',
    '--guest-kernel',
    '',
    'Series of the Debian kernel of microVMs, e.g. 6.1; default the newest',
  ),
  timeScale: integer(
    'E2B_TIME_SCALE',
    '--time-scale',
    1,
    'Multiplies time-outs of engines, for machines that are emulated themselves',
    1,
  ),
  maxSandboxes: integer('E2B_MAX_SANDBOXES', '--max-sandboxes', 500, 'Sandboxes at once on this machine', 1),
  poolMax: integer('E2B_POOL_MAX', '--pool-max', 4, 'Pre-started sandboxes per hot template; 0 = no pool'),
  poolMin: integer('E2B_POOL_MIN', '--pool-min', 0, 'Pre-started sandboxes per template that is always hot'),
  slotsReady: integer('E2B_SLOTS_READY', '--slots-ready', 8, 'Network slots and disks made ahead', 1),
  diskMib: integer('E2B_DISK_MIB', '--disk-mib', 10240, 'Disk of a sandbox, a hard cap', 64),
  sandboxMbit: integer(
    'E2B_SANDBOX_MBIT',
    '--sandbox-mbit',
    0,
    'Bandwidth of a sandbox in each direction, Mbit/s; 0 = no bound',
  ),
  sandboxDiskMibps: integer(
    'E2B_SANDBOX_DISK_MIBPS',
    '--sandbox-disk-mibps',
    0,
    'Reads and writes of the disk of a sandbox in Firecracker, MiB/s; 0 = no bound',
  ),
  uppersGib: integer(
    'E2B_UPPERS_GIB',
    '--uppers-gib',
    64,
    'Size of the sparse file with all sandbox disks',
    1,
  ),
  teamSandboxes: integer('E2B_TEAM_SANDBOXES', '--team-sandboxes', 500, 'Sandboxes at once per team', 1),
  rateLimits: text(
    'E2B_RATE_LIMITS',
    '--rate-limits',
    '',
    'Calls of a team by route: {"/sandboxes/{sandboxID}/pause": {"rate": 10, "burst": 20, "period_s": 60}}',
  ),
  sandboxConnections: integer(
    'E2B_SANDBOX_CONNECTIONS',
    '--sandbox-connections',
    0,
    'Requests and streams at once to one sandbox through the edge; 0 = no bound',
  ),
  teamMaxHours: integer(
    'E2B_TEAM_MAX_HOURS',
    '--team-max-hours',
    24,
    'Longest life of a sandbox, in hours',
    1,
  ),
  teamSnapshots: integer('E2B_TEAM_SNAPSHOTS', '--team-snapshots', 500, 'Snapshots kept at once per team', 1),
  onShutdown: oneOf('E2B_ON_SHUTDOWN', '--on-shutdown', ['keep', 'kill'], 'Sandboxes when the server ends'),
  caBundle: place(
    'E2B_CA_BUNDLE',
    '--ca-bundle',
    '',
    'PEM trusted in builds and sandboxes besides the public CAs',
  ),
  pipIndexUrl: text('E2B_PIP_INDEX_URL', '--pip-index-url', '', 'pip index for builds and sandboxes'),
  npmRegistry: text('E2B_NPM_REGISTRY', '--npm-registry', '', 'npm registry for builds and sandboxes'),
  aptMirror: text('E2B_APT_MIRROR', '--apt-mirror', '', "Debian mirror for templates; default the host's"),
  dnsUpstreams: text(
    'E2B_DNS_UPSTREAMS',
    '--dns-upstreams',
    '',
    'Resolvers; default those of /etc/resolv.conf',
  ),
  adminToken: text(
    'E2B_ADMIN_TOKEN',
    '--admin-token',
    '',
    "Opens the operator's routes to X-Admin-Token; empty = closed",
  ),
  observationDays: integer(
    'E2B_OBSERVATION_DAYS',
    '--observation-days',
    7,
    'How long logs and metrics are kept',
    1,
  ),
  logLevel: oneOf('E2B_LOG_LEVEL', '--log-level', ['info', 'debug', 'warn', 'error'], 'Log level'),
} as const

type SettingName = keyof typeof settings
export type Config = { readonly [Name in SettingName]: (typeof settings)[Name]['default'] } & {
  readonly imagesDir: string
}

const FLAG_WIDTH = 22
const ENV_WIDTH = 24

/** The settings table of --help: flag, environment variable, meaning, default. */
export function describeSettings(): string {
  const rows = Object.values(settings).map(({ flag, env, doc, default: fallback }) => {
    const shown = fallback === '' ? '' : ` [${fallback}]`
    return `  ${flag.padEnd(FLAG_WIDTH)}${env.padEnd(ENV_WIDTH)}${doc}${shown}`
  })
  return ['Settings (flag, environment variable, meaning, default):', ...rows].join('\n')
}

/** The flags of all settings; the table above says what they mean. */
export const settingFlags = (): string[] => Object.values(settings).map(({ flag }) => `${flag} <value>`)

/** The environment of a process that is to have this configuration, whatever file and flags it came from. */
export const configEnvironment = (config: Config): Record<string, string> => ({
  ...Object.fromEntries(
    Object.entries(settings).map(([name, { env }]) => [env, String(config[name as SettingName])]),
  ),
  // What is empty here must not come from a file.
  E2B_CONFIG: '/dev/null',
})

const camel = (flag: string): string =>
  flag.slice(2).replace(/-([a-z])/g, (_match, letter: string) => letter.toUpperCase())

const DEFAULT_FILE = '/etc/e2b/config.json'

/** @param path undefined where nobody named a file: the default one need not exist */
function readFile(path: string | undefined): Record<string, unknown> {
  if (path === undefined) return existsSync(DEFAULT_FILE) ? readFile(DEFAULT_FILE) : {}
  let parsed: unknown
  try {
    // An empty file, such as /dev/null, has no settings.
    parsed = JSON.parse(readFileSync(path, 'utf8') || '{}')
  } catch (error) {
    const { message } = error as Error
    throw new ConfigError(
      error instanceof SyntaxError
        ? `${path} is not valid JSON: ${message}`
        : `The configuration file cannot be read: ${message}`,
    )
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) {
    throw new ConfigError(`${path} must hold a JSON object with setting names as keys`)
  }
  const unknown = Object.keys(parsed).filter((key) => !(key in settings))
  if (unknown.length > 0) throw new ConfigError(`${path} has unknown settings: ${unknown.join(', ')}`)
  return parsed as Record<string, unknown>
}

/**
 * Reads the configuration.
 * @param flags parsed command-line options, keyed in camelCase of the flag
 * @throws ConfigError with a sentence for the operator
 */
export function loadConfig(
  flags: Record<string, unknown> = {},
  env: NodeJS.ProcessEnv = process.env,
): Config {
  const named = flags.config ?? (env.E2B_CONFIG || undefined)
  const file = readFile(named === undefined ? undefined : String(named))
  const read = <T extends string | number>(name: string, setting: Setting<T>): T => {
    const given = flags[camel(setting.flag)] ?? (env[setting.env] || undefined) ?? file[name]
    if (given === undefined || given === null) return setting.default
    return setting.parse(typeof given === 'object' ? JSON.stringify(given) : String(given))
  }
  const entries = Object.entries(settings).map(([name, setting]) => [
    name,
    read(name, setting as Setting<string | number>),
  ])
  const config = Object.fromEntries(entries) as Config
  if (!/^[a-z][a-z0-9]{0,5}$/.test(config.instance)) {
    throw new ConfigError(
      `E2B_INSTANCE (--instance) must be a small letter and up to five more or digits, not '${config.instance}'`,
    )
  }
  return { ...config, imagesDir: config.imagesDir || join(config.stateDir, 'images') }
}

export { ConfigError }
