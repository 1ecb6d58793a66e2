import { ApiError } from '@sandbox/contract/errors'
import type { StatusResponse } from '@sandbox/contract/gen/host/host_pb'
import type { Logger } from 'pino'
import type { HostEndpoint } from '../options.ts'

const REFRESH_MS = 1_000
const STATUS_TIMEOUT_MS = 2_000
/** A status older than this says nothing: a busy host may miss a few readings, a dead one misses all. */
const STALE_MS = 10_000
/** Compared per placement: enough to avoid the fullest, few enough that creates at once do not all pick one host. */
const SAMPLE = 3

interface PlacementQuery {
  readonly snapshotId: string
  readonly memoryMib: number
  readonly hostId?: string | null
  /** The engine it is to run on; null and `auto` leave it to the host. */
  readonly isolation?: string | null
}

/** Whether a host takes new sandboxes, as the operator set it. Draining and standby ones keep what they run. */
export type Acceptance = 'ready' | 'draining' | 'standby'

/** A host as the operator sees it. */
export interface HostView {
  readonly id: string
  readonly status: Acceptance | 'connecting' | 'unhealthy'
  /** Milliseconds since 1970. */
  readonly changedAt: number
  /** As last read; undefined while it does not answer. */
  readonly capacity: StatusResponse | undefined
  /** Starts since this server began: under way since the capacity was read, done, failed. */
  readonly counts: { readonly starting: number; readonly started: number; readonly failed: number }
}

interface KnownHost {
  readonly endpoint: HostEndpoint
  acceptance: Acceptance
  /** When acceptance or reachability changed last. */
  changedAt: number
  started: number
  failed: number
  status: StatusResponse | undefined
  readAt: number
  /** Starts sent since the status was read. */
  starting: number
  refreshing: boolean
}

/** The machines, with their capacity as of about a second ago: placement reads memory only. */
export class Hosts {
  readonly #hosts: ReadonlyMap<string, KnownHost>
  readonly #logger: Logger
  #timer: NodeJS.Timeout | undefined

  constructor(endpoints: readonly HostEndpoint[], logger: Logger) {
    this.#logger = logger
    this.#hosts = new Map(
      endpoints.map((endpoint) => [
        endpoint.id,
        {
          endpoint,
          acceptance: 'ready',
          changedAt: Date.now(),
          started: 0,
          failed: 0,
          status: undefined,
          readAt: 0,
          starting: 0,
          refreshing: false,
        },
      ]),
    )
  }

  /** Reads every host once, then keeps on reading. */
  async start(): Promise<void> {
    const refresh = () => Promise.all([...this.#hosts.values()].map((host) => this.#refresh(host)))
    await refresh()
    this.#timer = setInterval(() => void refresh(), REFRESH_MS).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  get(id: string): HostEndpoint | undefined {
    return this.#hosts.get(id)?.endpoint
  }

  get endpoints(): HostEndpoint[] {
    return [...this.#hosts.values()].map((host) => host.endpoint)
  }

  /** Every host, reachable or not. */
  views(): HostView[] {
    return [...this.#hosts.values()].map((host) => ({
      id: host.endpoint.id,
      status: host.status ? host.acceptance : host.readAt === 0 ? 'connecting' : 'unhealthy',
      changedAt: host.changedAt,
      capacity: host.status,
      counts: { starting: host.starting, started: host.started, failed: host.failed },
    }))
  }

  /** Sets whether a host takes new sandboxes, until this server ends. */
  setAcceptance(id: string, acceptance: Acceptance): void {
    const host = this.#hosts.get(id)
    if (!host || host.acceptance === acceptance) return
    host.acceptance = acceptance
    host.changedAt = Date.now()
    this.#logger.info({ hostId: id, acceptance }, 'host set by the operator')
  }

  /** Counts how a start ended. */
  noteOutcome(id: string, isStarted: boolean): void {
    const host = this.#hosts.get(id)
    if (host) host[isStarted ? 'started' : 'failed'] += 1
  }

  /**
   * Hosts to try for a start, best first; only the given one where just that has the snapshot.
   * @throws ApiError 503 when none has room, 500 when none has the engine
   */
  candidates({ snapshotId, memoryMib, hostId = null, isolation = null }: PlacementQuery): HostEndpoint[] {
    const withRoom = [...this.#hosts.values()].filter(
      (host) =>
        takesNew(host, hostId) &&
        hasRoom(host, memoryMib) &&
        hasEngine(host.status, isolation) &&
        (hostId === null || host.endpoint.id === hostId),
    )
    const lacks = withRoom.length === 0 ? this.lackOf(isolation) : undefined
    if (lacks) throw new ApiError('createRefused', lacks)
    if (withRoom.length === 0) {
      throw new ApiError(
        'noCapacity',
        'No host has room for the sandbox now: nothing was done, try again later.',
      )
    }
    const isWarm = (host: KnownHost) => host.status?.warmSnapshotIds.includes(snapshotId) === true
    const warm = withRoom.filter(isWarm)
    const sample = pickSome(warm.length > 0 ? warm : withRoom, SAMPLE).sort(
      (a, b) => freeShare(b) - freeShare(a),
    )
    const rest = withRoom.filter((host) => !sample.includes(host)).slice(0, SAMPLE)
    return [...sample, ...rest].map((host) => host.endpoint)
  }

  /** Why no host that answers can run sandboxes on an engine, and what to do; undefined when one can, or none answers. */
  lackOf(isolation: string | null): string | undefined {
    const statuses = [...this.#hosts.values()].flatMap(({ status }) => status ?? [])
    if (statuses.length === 0 || statuses.some((status) => hasEngine(status, isolation))) return undefined
    const engines = statuses.flatMap((status) => status.engines)
    const usable = new Set(engines.filter((engine) => engine.usable).map(({ name }) => name))
    const missing = engines.find(({ name }) => name === isolation)
    return (
      `No host can run sandboxes on '${isolation}', there is ${[...usable].join(', ')}. ` +
      `${isolation}: ${missing?.detail || 'unknown'}. ${remedyOf(missing?.remedy)}`
    ).trimEnd()
  }

  /** Counts a start until the next status of the host contains it. */
  noteStart(id: string): void {
    const host = this.#hosts.get(id)
    if (host) host.starting += 1
  }

  /** A host that could not be reached takes no starts until it answers again. */
  noteUnreachable(id: string, error: unknown): void {
    const host = this.#hosts.get(id)
    if (!host) return
    this.#setAside(host, error)
    void this.#refresh(host)
  }

  #setAside(host: KnownHost, error: unknown): void {
    if (host.status) this.#logger.warn({ err: error, hostId: host.endpoint.id }, 'host does not answer')
    if (host.status) host.changedAt = Date.now()
    host.status = undefined
  }

  async #refresh(host: KnownHost): Promise<void> {
    if (host.refreshing) return
    host.refreshing = true
    try {
      const status = await host.endpoint.client.status({}, { timeoutMs: STATUS_TIMEOUT_MS })
      if (!host.status) {
        host.changedAt = Date.now()
        this.#logger.info({ hostId: host.endpoint.id }, 'host answers')
      }
      host.status = status
      host.readAt = performance.now()
      host.starting = 0
    } catch (error) {
      if (performance.now() - host.readAt > STALE_MS) this.#setAside(host, error)
    } finally {
      host.refreshing = false
    }
  }
}

const hasEngine = (status: StatusResponse | undefined, isolation: string | null): boolean =>
  isolation === null ||
  isolation === 'auto' ||
  status?.engines.some(({ name, usable }) => usable && name === isolation) === true

const remedyOf = (command = ''): string =>
  command.startsWith('npm ') ? `Install it with '${command}', then start the server anew.` : command

/** What only one host can start, as a sandbox that was paused there, it starts also while it is drained. */
const takesNew = (host: KnownHost, onlyHostId: string | null): boolean =>
  host.acceptance === 'ready' || onlyHostId === host.endpoint.id

function hasRoom(host: KnownHost, memoryMib: number): boolean {
  const { status } = host
  if (!status) return false
  const hasSlot = status.sandboxCount + host.starting < status.sandboxCapacity
  // A clone shares most of its memory with the snapshot; an eighth is what one needs at least to begin.
  const neededBytes = (memoryMib * 2 ** 20) / 8
  return hasSlot && Number(status.memoryAvailableBytes) >= neededBytes
}

function freeShare(host: KnownHost): number {
  const { status } = host
  if (!status || status.sandboxCapacity === 0) return 0
  return 1 - (status.sandboxCount + host.starting) / status.sandboxCapacity
}

function pickSome<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items]
  const offset = Math.floor(Math.random() * items.length)
  return Array.from({ length: count }, (_unused, step) => items[(offset + step) % items.length]!)
}
