import type { Client } from '@connectrpc/connect'
import type { Host } from '@sandbox/contract/gen/host/host_pb'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { RateLimits } from './http/rate-limits.ts'

/** A machine that runs sandboxes, and how to reach it. */
export interface HostEndpoint {
  /** Kept in the rows of its sandboxes: must stay the same over restarts. */
  readonly id: string
  readonly client: Client<typeof Host>
}

/** What a team may do unless its own row says otherwise. */
export interface TeamLimits {
  /** Sandboxes at once. */
  readonly maxSandboxes: number
  /** Longest life of a sandbox, hours. */
  readonly maxHours: number
  /** Snapshots of sandboxes kept at once. */
  readonly maxSnapshots: number
}

export interface ApiOptions {
  readonly store: Store
  readonly hosts: readonly HostEndpoint[]
  readonly limits: TeamLimits
  readonly logger: Logger
  /** `domain` of every answer: steers clients to another domain than the one they are configured with. */
  readonly sandboxDomain?: string
  /** What the hosts can do beyond the basics; the API refuses what they cannot. */
  readonly features?: Partial<Features>
  /** How long a host may take to start a sandbox. */
  readonly startTimeoutMs?: number
  /**
   * How old a sandbox without a row must be before it is ended as an orphan. 0 is right while one process serves
   * the API: what it has no row for belongs to nobody.
   */
  readonly orphanGraceMs?: number
  /** How often a team may call a route; default: as often as it likes. */
  readonly rateLimits?: RateLimits
  /** Lets the operator act for any team (X-Admin-Token with X-Team-ID) and opens /admin; default: closed. */
  readonly adminToken?: string
  /** Secret that tokens are derived from; default one made once and kept in the store. */
  readonly tokenSeed?: string
  /** How long log lines and a sample a minute of metrics are kept, milliseconds; default a week. */
  readonly observationsKeptMs?: number
  /** Registers the OpenAPI generator (`app.swagger()`). */
  readonly openapi?: boolean
}

export interface Features {
  readonly egressProxy: boolean
  readonly networkRules: boolean
  readonly volumes: boolean
  readonly iam: boolean
}
