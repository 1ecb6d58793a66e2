import { ApiError } from '@sandbox/contract/errors'
import type { SandboxRow, Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { SandboxTokens } from '../auth/tokens.ts'
import type { HostEndpoint, TeamLimits } from '../options.ts'
import { type AnswerFacts, settingsOf } from './answers.ts'
import type { Hosts } from './hosts.ts'
import { ingressOf } from './new-sandbox.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'
import type { StartOrder } from './starting.ts'

export const sandboxNotFound = (id: string): ApiError =>
  new ApiError('notFound', `Sandbox "${id}" doesn't exist or you don't have access to it`)

/** Of calls that need a running sandbox some answer 404 to a paused one in E2B, others 409. */
export const sandboxPaused = (kind: 'notFound' | 'conflict', id: string): ApiError =>
  new ApiError(kind, `Sandbox ${id} is paused: connect to it first.`)

export const sandboxTransitioning = (id: string): ApiError =>
  new ApiError('transitioning', `Sandbox ${id} is changing its state: try again when that is done.`)

/** An entry for a row whose sandbox was started earlier; its address comes from its host. */
export function runningFromRow(
  row: SandboxRow,
  phase: 'running' | 'starting' | 'killing' = 'running',
): RunningSandbox {
  return {
    id: row.id,
    teamId: row.teamId,
    hostId: row.hostId ?? '',
    address: '',
    phase,
    startedAt: row.startedAt,
    endAt: row.endAt,
    ingress: ingressOf(settingsOf(row)),
  }
}

export function factsOf(row: SandboxRow): AnswerFacts {
  return {
    templateId: row.templateId,
    sandboxId: row.id,
    envdVersion: row.envdVersion,
    alias: row.alias,
    isPrivate: ingressOf(settingsOf(row)).isPrivate,
  }
}

/** What a host is told to start for a row. */
export function startOrderOf(row: SandboxRow, tokens: SandboxTokens): StartOrder {
  const settings = settingsOf(row)
  const { cpuCount, memoryMib, diskMib } = row
  return {
    sandboxId: row.id,
    snapshotId: row.snapshotId,
    endAt: row.endAt,
    pauseAtEnd: settings.autoPause,
    pauseMemory: settings.autoPauseMemory,
    memoryMib,
    config: {
      resources: { cpuCount, memoryMib, diskMib },
      envVars: tokens.openEnv(row.id, row.sealedEnv),
      envdAccessToken: tokens.envdToken(row.id),
      ...(ingressOf(settings).isPrivate ? { trafficAccessToken: tokens.trafficToken(row.id) } : {}),
      allowInternetAccess: settings.allowInternetAccess ?? true,
      networkJson: settings.network ? JSON.stringify(settings.network) : '',
      metadata: JSON.parse(row.metadata) as Record<string, string>,
      templateId: row.templateId,
    },
  }
}

/** Rows, entries, hosts and limits, brought together. */
export class Entries {
  readonly #store: Store
  readonly #running: RunningSandboxes
  readonly #hosts: Hosts
  readonly #limits: TeamLimits

  constructor(store: Store, running: RunningSandboxes, hosts: Hosts, limits: TeamLimits) {
    this.#store = store
    this.#running = running
    this.#hosts = hosts
    this.#limits = limits
  }

  /**
   * An entry for a running row that has none: another process started the sandbox, or it ended while the row was read.
   * The row is read again once the entry is there, which whoever ends the sandbox from then on takes away.
   * @throws ApiError 404 when it has ended, 409 when it was paused, 503 when this server does not know its host
   */
  async adopt(row: SandboxRow): Promise<RunningSandbox> {
    this.hostOf(row)
    const sandbox = runningFromRow(row)
    this.#running.add(sandbox)
    const current = await this.#store.sandboxes.findById(row.id).catch((error: unknown) => {
      this.#running.remove(row.id, sandbox)
      throw error
    })
    if (!current || current.state === 'paused') this.#running.remove(row.id, sandbox)
    const entry = this.#running.get(row.id)
    if (entry) return entry
    throw current ? sandboxTransitioning(row.id) : sandboxNotFound(row.id)
  }

  /** @throws ApiError 503 when this server does not know the host */
  hostOf({ hostId }: { readonly hostId: string | null }): HostEndpoint {
    const host = this.#hosts.get(hostId ?? '')
    if (!host) throw new ApiError('busy', `Host ${hostId} of the sandbox is not part of this server now.`)
    return host
  }

  limitsOf(team: Team): TeamLimits {
    return {
      maxSandboxes: team.maxSandboxes ?? this.#limits.maxSandboxes,
      maxHours: team.maxHours ?? this.#limits.maxHours,
      maxSnapshots: this.#limits.maxSnapshots,
    }
  }
}
