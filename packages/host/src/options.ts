import type { Logger } from 'pino'
import type { EngineName, Limits } from './engines/engine.ts'

export interface NeededSnapshots {
  readonly published: readonly string[]
  readonly own: readonly string[]
}

/** Everything the host is told. Names and ranges keep several instances on one machine apart. */
export interface HostOptions {
  /** Names this machine in a cluster. */
  hostId: string
  /** Prefix of every kernel object. */
  instance: string
  /** Journal and sandbox disks; survives a reboot. */
  stateDir: string
  /** Layers and snapshots; immutable, may be shared by several instances. */
  imagesDir: string
  /** What lives until the next boot. A tmpfs is mounted there unless it lies on one. */
  runDir: string
  /** IPv4 range in CIDR form, one address a slot. */
  addressRange: string
  /** First host uid given to sandboxes; 65,536 a slot. */
  uidBase: number
  /** Engine of sandboxes whose template names none; undefined takes the strongest usable one. */
  isolation: EngineName | undefined
  /** It comes up also where no engine is usable: to end what is there. */
  mayServeNothing?: boolean
  /** What an operator types to get an engine that is not installed. */
  installCommands: Readonly<Partial<Record<EngineName, string>>>
  /** Sandboxes at once, pooled ones and builds included. */
  maxSandboxes: number
  /** Network slots kept ready. */
  slotsReady: number
  /** Size of the sparse file that holds the disks of all sandboxes. */
  uppersMib: number
  /** Bandwidth of one sandbox in each direction, Mbit/s; 0 = as much as there is. */
  sandboxMbit: number
  /** Limits of a sandbox whose snapshot and request name none. */
  defaultLimits: Limits
  /** Sum of all memory limits as a multiple of the machine's memory. */
  memoryOvercommit: number
  /** Starts are refused while less than this is available. */
  memoryReserveMib: number
  /** Bound on captured memory of all snapshots for this host's class. */
  memoryCacheMib: number
  pool: { min: number; max: number; idleMs: number }
  maxBuilds: number
  /** Multiplies every time that sandboxes have to answer, for machines that are emulated themselves. */
  timeScale: number
  /** Resolvers as `address` or `address:port`; empty takes those of the machine. */
  dnsUpstreams: readonly string[]
  /** Layers that are neither of a sandbox nor of a snapshot and must stay: those of the agent. */
  agentLayers: () => readonly string[]
  /**
   * Snapshots of templates that must stay: what the set-up has published for all who share the images, and what this
   * instance's control plane can start. Missing where that is not known: then no snapshot is ever deleted here.
   */
  neededSnapshots?: () => Promise<NeededSnapshots>
  /** Version that the agent in the agent layer reports. */
  agentVersion: string
  log: Logger
}

export type HostOptionDefaults = Pick<
  HostOptions,
  'memoryOvercommit' | 'memoryReserveMib' | 'memoryCacheMib' | 'maxBuilds'
>

export const hostOptionDefaults: HostOptionDefaults = {
  memoryOvercommit: 32,
  memoryReserveMib: 512,
  memoryCacheMib: 16 * 1024,
  maxBuilds: 2,
}
