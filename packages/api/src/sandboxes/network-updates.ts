import { Code, ConnectError } from '@connectrpc/connect'
import { ApiError } from '@sandbox/contract/errors'
import type { SandboxNetworkConfig, SandboxNetworkUpdate } from '@sandbox/contract/rest/network'
import { normaliseNetworkConfig } from '@sandbox/contract/rest/network-rules'
import type { Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { Features } from '../options.ts'
import { settingsOf } from './answers.ts'
import { type Entries, sandboxNotFound, sandboxPaused, sandboxTransitioning } from './entries.ts'
import { checkNetwork, type SandboxSettings } from './new-sandbox.ts'

export interface NetworkUpdateParts {
  readonly store: Store
  readonly entries: Entries
  readonly features: Features
  readonly logger: Logger
}

const UPDATE_TIMEOUT_MS = 10_000

/** Replaces what running sandboxes may reach: on their host first, then in their row for later starts. */
export class NetworkUpdates {
  readonly #parts: NetworkUpdateParts
  /** The last update under way of each sandbox: the row must end up with what the host was told last. */
  readonly #last = new Map<string, Promise<void>>()

  constructor(parts: NetworkUpdateParts) {
    this.#parts = parts
  }

  /**
   * The whole egress config is replaced; what is left out is cleared. New connections are under it on return.
   * @throws ApiError 400 invalid, 403 a feature that is off, 404 also a paused one, 409 in transition, 503 the host does not answer
   */
  async replace(team: Team, id: string, body: SandboxNetworkUpdate): Promise<void> {
    const { allow_internet_access: allowInternetAccess = null, ...egress } = body
    checkNetwork(egress, this.#parts.features)
    const before = this.#last.get(id) ?? Promise.resolve()
    const update = before.then(() =>
      this.#replace(team, id, normaliseNetworkConfig(egress), allowInternetAccess),
    )
    const settled = update.catch(() => {})
    this.#last.set(id, settled)
    try {
      await update
    } finally {
      if (this.#last.get(id) === settled) this.#last.delete(id)
    }
  }

  async #replace(
    team: Team,
    id: string,
    egress: SandboxNetworkConfig,
    allowInternetAccess: boolean | null,
  ): Promise<void> {
    const { store, entries, logger } = this.#parts
    const row = await store.sandboxes.find(team.id, id)
    if (!row) throw sandboxNotFound(id)
    if (row.state === 'paused') throw sandboxPaused('notFound', id)
    const host = entries.hostOf(row)
    const former = settingsOf(row)
    const network = { ...ingressOnly(former.network ?? {}), ...egress }
    const settings: SandboxSettings = { ...former, network, allowInternetAccess }
    try {
      await host.client.setNetwork(
        {
          sandboxId: id,
          networkJson: JSON.stringify(network),
          allowInternetAccess: allowInternetAccess ?? true,
        },
        { timeoutMs: UPDATE_TIMEOUT_MS },
      )
    } catch (cause) {
      throw updateError(id, cause)
    }
    await store.sandboxes.update(id, { config: JSON.stringify(settings) })
    logger.info({ sandboxId: id, teamId: team.id }, 'sandbox network replaced')
  }
}

/** An update does not touch how traffic reaches the sandbox. */
const ingressOnly = ({ allowPublicTraffic, maskRequestHost, httpsPorts }: SandboxNetworkConfig) => ({
  ...(allowPublicTraffic === undefined ? {} : { allowPublicTraffic }),
  ...(maskRequestHost === undefined ? {} : { maskRequestHost }),
  ...(httpsPorts === undefined ? {} : { httpsPorts }),
})

function updateError(id: string, cause: unknown): ApiError {
  const error = ConnectError.from(cause)
  switch (error.code) {
    case Code.NotFound:
      return sandboxNotFound(id)
    case Code.FailedPrecondition:
    case Code.Aborted:
      return sandboxTransitioning(id)
    case Code.InvalidArgument:
    case Code.Unimplemented:
      return new ApiError('badRequest', error.rawMessage, { cause })
    case Code.Unavailable:
    case Code.DeadlineExceeded:
      return new ApiError('busy', `The host of sandbox ${id} does not answer: try again.`, { cause })
    default:
      return new ApiError('internal', `The network of sandbox ${id} was not changed: see the server log.`, {
        cause,
      })
  }
}
