import { ApiError } from '@sandbox/contract/errors'
import { newUuid } from '@sandbox/contract/ids'
import type { LooseSnapshot, SandboxRow, Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { HostEndpoint } from '../options.ts'
import { type Entries, sandboxNotFound, sandboxPaused, sandboxTransitioning } from './entries.ts'
import { captureError } from './pausing.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'

export interface CaptureParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly entries: Entries
  readonly logger: Logger
}

export interface CaptureOrder {
  /** The id that the snapshot gets. */
  readonly snapshotId: string
  readonly memory: boolean
  /** How a paused sandbox is refused. */
  readonly ofPaused: 'notFound' | 'conflict'
}

export interface Captured {
  /** The sandbox as it was when it was captured. */
  readonly row: SandboxRow
  readonly host: HostEndpoint
}

const CAPTURE_TIMEOUT_MS = 600_000
const DELETE_TIMEOUT_MS = 30_000

/** Captures running sandboxes in place; they go on with their processes. */
export class Captures {
  readonly #parts: CaptureParts
  /** Names this run of the server in the list of loose snapshots. */
  readonly #owner = newUuid()

  constructor(parts: CaptureParts) {
    this.#parts = parts
  }

  /** @throws ApiError 404, 409 in transition, 503 not possible now; the sandbox goes on then */
  async capture(team: Team, id: string, { snapshotId, memory, ofPaused }: CaptureOrder): Promise<Captured> {
    const { store, running, entries } = this.#parts
    const row = await store.sandboxes.find(team.id, id)
    if (!row) throw sandboxNotFound(id)
    if (row.state === 'paused') throw sandboxPaused(ofPaused, id)
    const sandbox = running.get(id) ?? (await entries.adopt(row))
    if (sandbox.phase === 'killing') throw sandboxNotFound(id)
    if (sandbox.phase === 'snapshotting') {
      throw new ApiError('busy', `Sandbox ${id} is being snapshotted: nothing was done, try again.`)
    }
    if (sandbox.phase !== 'running') throw sandboxTransitioning(id)
    const host = entries.hostOf(sandbox)
    sandbox.phase = 'snapshotting'
    await running.during(sandbox, () => this.#capture(host, sandbox, snapshotId, memory))
    return { row, host }
  }

  async #capture(
    host: HostEndpoint,
    sandbox: RunningSandbox,
    snapshotId: string,
    memory: boolean,
  ): Promise<void> {
    try {
      await this.#parts.store.looseSnapshots.insert(this.looseSnapshot(snapshotId, host.id))
      await host.client.snapshot(
        { sandboxId: sandbox.id, snapshotId, memory },
        { timeoutMs: CAPTURE_TIMEOUT_MS },
      )
    } catch (error) {
      // An answer may be lost after the work was done.
      await this.discard(host, snapshotId)
      const isThere = this.#parts.running.get(sandbox.id) === sandbox && sandbox.phase === 'snapshotting'
      throw isThere ? captureError(sandbox.id, error) : sandboxNotFound(sandbox.id)
    } finally {
      if (sandbox.phase === 'snapshotting') sandbox.phase = 'running'
    }
  }

  looseSnapshot(snapshotId: string, hostId: string): LooseSnapshot {
    return { snapshotId, hostId, owner: this.#owner, createdAt: Date.now() }
  }

  /** Deletes a loose snapshot; what cannot be deleted now is tried again when its host is compared. */
  async discard(host: HostEndpoint, snapshotId: string): Promise<void> {
    try {
      await host.client.deleteSnapshot({ snapshotId }, { timeoutMs: DELETE_TIMEOUT_MS })
      await this.#parts.store.looseSnapshots.delete(snapshotId)
    } catch (error) {
      this.#parts.logger.error({ err: error, hostId: host.id, snapshotId }, 'snapshot not deleted')
    }
  }

  /** Deletes what other runs of the server left behind on a host. @param graceMs how old it must be */
  async discardAbandoned(host: HostEndpoint, graceMs: number): Promise<void> {
    const { store, logger } = this.#parts
    const abandoned = await store.looseSnapshots.listAbandoned(host.id, this.#owner, Date.now() - graceMs)
    for (const { snapshotId } of abandoned) {
      logger.warn({ hostId: host.id, snapshotId }, 'abandoned snapshot is deleted')
      await this.discard(host, snapshotId)
    }
  }
}
