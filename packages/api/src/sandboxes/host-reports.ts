import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import {
  type HostEvent,
  type HostEvent_Ended,
  type HostEvent_PauseFailed,
  type PausedSandbox,
  SandboxState,
  type SandboxStatus,
} from '@sandbox/contract/gen/host/host_pb'
import type { SandboxRow } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import { waitUnlessAborted } from '../abortable-wait.ts'
import type { SandboxLogs } from '../observing/sandbox-logs.ts'
import type { HostEndpoint } from '../options.ts'
import type { Captures } from './capturing.ts'
import { runningFromRow } from './entries.ts'
import type { Pauses } from './pausing.ts'
import { ReportedPauses } from './reported-pauses.ts'
import type { Resumes } from './resuming.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'
import { stopOn } from './starting.ts'

const FIRST_RETRY_MS = 100
const MAX_RETRY_MS = 5_000
const LIST_TIMEOUT_MS = 10_000

export interface HostReportParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly pauses: Pauses
  readonly resumes: Resumes
  readonly captures: Captures
  readonly logs: SandboxLogs
  readonly logger: Logger
  readonly orphanGraceMs: number
}

/**
 * Follows one host: what it reports as ended loses its row, what it has without a row is stopped, what it runs
 * as recorded becomes reachable. Compares everything after each (re)connection.
 */
export class HostReports {
  readonly #host: HostEndpoint
  readonly #parts: HostReportParts
  readonly #abort = new AbortController()
  readonly #orphanTimers = new Map<string, NodeJS.Timeout>()
  readonly #reportedPauses: ReportedPauses
  #finished: Promise<void> | undefined

  constructor(host: HostEndpoint, parts: HostReportParts) {
    this.#host = host
    this.#reportedPauses = new ReportedPauses(host.id, parts)
    this.#parts = { ...parts, logger: parts.logger.child({ hostId: host.id }) }
  }

  /** Begins to follow. Resolves after the first comparison, or after `waitMs` when the host is away. */
  async start(waitMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.#finished = this.#follow(resolve)
    const timer = setTimeout(resolve, waitMs)
    await promise
    clearTimeout(timer)
  }

  async stop(): Promise<void> {
    this.#abort.abort()
    for (const timer of this.#orphanTimers.values()) clearTimeout(timer)
    await this.#finished
    this.#reportedPauses.close()
  }

  async #follow(onSynced: () => void): Promise<void> {
    const { signal } = this.#abort
    let retryMs = FIRST_RETRY_MS
    while (!signal.aborted) {
      try {
        for await (const { event } of this.#host.client.watch({}, { signal })) {
          if (event.case === 'synced') {
            await this.#compare()
            onSynced()
            retryMs = FIRST_RETRY_MS
          } else await this.#onEvent(event)
        }
      } catch (error) {
        if (!signal.aborted) this.#parts.logger.warn({ err: error }, 'watching the host failed, trying again')
      }
      await waitUnlessAborted(retryMs, signal)
      retryMs = Math.min(retryMs * 2, MAX_RETRY_MS)
    }
  }

  async #onEvent(event: HostEvent['event']): Promise<void> {
    switch (event.case) {
      case 'started':
        return this.#started(event.value)
      case 'pausing':
        return this.#reportedPauses.begin(event.value.sandboxId)
      case 'pauseFailed':
        return this.#pauseFailed(event.value)
      case 'ended':
        try {
          await this.#ended(event.value)
        } finally {
          this.#reportedPauses.settle(event.value.sandboxId)
        }
    }
  }

  /** Rows are read before the list: a sandbox recorded in between is then on neither side or on the list. */
  async #compare(): Promise<void> {
    const { store, running, captures, orphanGraceMs, logger } = this.#parts
    const rows = new Map((await store.sandboxes.listOnHost(this.#host.id)).map((row) => [row.id, row]))
    const { sandboxes, paused } = await this.#host.client.list({}, { timeoutMs: LIST_TIMEOUT_MS })
    const present = new Set([...sandboxes, ...paused].map(({ sandboxId }) => sandboxId))
    const pausing = sandboxes.filter(({ state }) => state === SandboxState.PAUSING)
    this.#reportedPauses.reopen(new Set(pausing.map(({ sandboxId }) => sandboxId)))
    for (const row of rows.values()) {
      if (present.has(row.id)) continue
      if (row.state !== 'paused') await this.#forget(row.id, 'lost')
      else if (!running.get(row.id)) await this.#forgetPaused(row)
    }
    for (const sandbox of sandboxes) await this.#adopt(sandbox, rows.get(sandbox.sandboxId))
    for (const { sandboxId } of pausing) await this.#reportedPauses.begin(sandboxId)
    for (const sandbox of paused) await this.#comparePaused(sandbox, rows.get(sandbox.sandboxId))
    await captures.discardAbandoned(this.#host, orphanGraceMs)
    logger.info({ sandboxes: sandboxes.length, paused: paused.length }, 'host compared with the store')
  }

  async #comparePaused(paused: PausedSandbox, known: SandboxRow | undefined): Promise<void> {
    const { running, store, pauses, logger } = this.#parts
    const id = paused.sandboxId
    const entry = running.get(id)
    // Whoever resumes, pauses or kills it takes care of the row.
    if (entry && entry.phase !== 'running') return
    const row = known ?? (await store.sandboxes.findById(id))
    if (row?.hostId === this.#host.id) {
      // A loss of power brought back the snapshot that a sandbox was resumed from, while the row says that it runs.
      const undone = !entry?.address && known?.snapshotId === paused.snapshotId
      if (row.state !== 'paused') await pauses.record(this.#host.id, paused, entry, { undone })
      return
    }
    logger.warn({ sandboxId: id }, 'paused sandbox without a row is removed')
    stopOn(this.#host, id).catch((error) => logger.error({ err: error, sandboxId: id }, 'orphan not removed'))
  }

  async #started(sandbox: SandboxStatus): Promise<void> {
    if (this.#parts.running.get(sandbox.sandboxId)?.address) return
    const row = await this.#parts.store.sandboxes.findById(sandbox.sandboxId)
    if (row?.hostId === this.#host.id) await this.#adopt(sandbox, row)
  }

  async #adopt(sandbox: SandboxStatus, known: SandboxRow | undefined): Promise<void> {
    const { running, store } = this.#parts
    const entry = running.get(sandbox.sandboxId)
    if (entry && entry.phase !== 'running') return
    const row = known ?? (await store.sandboxes.findById(sandbox.sandboxId))
    if (!row || row.hostId !== this.#host.id) return this.#orphan(sandbox)
    if (row.state === 'paused') return this.#adoptResumed(sandbox)
    if (row.state === 'pausing') await store.sandboxes.update(row.id, { state: 'running' })
    const live = entry ?? runningFromRow(row)
    running.add(live)
    if (live.address !== sandbox.address) running.publish(live, this.#host.id, sandbox.address)
    // The row says what the user asked for.
    const reportedEnd = sandbox.endAt ? timestampMs(sandbox.endAt) : row.endAt
    if (reportedEnd !== row.endAt && sandbox.state !== SandboxState.PAUSING) {
      await this.#host.client.setEnd(
        { sandboxId: row.id, endAt: timestampFromMs(row.endAt), extendOnly: false },
        { timeoutMs: LIST_TIMEOUT_MS },
      )
    }
  }

  /** A sandbox whose resume was interrupted between its start and its row: the host says what it got. */
  async #adoptResumed(sandbox: SandboxStatus): Promise<void> {
    const { running, store, resumes } = this.#parts
    const row = await store.sandboxes.findById(sandbox.sandboxId)
    // Started from something else than its pause: news from before that pause.
    if (row?.state !== 'paused' || row.snapshotId !== sandbox.snapshotId || running.get(row.id)) return
    const resumed: SandboxRow = {
      ...row,
      state: 'running',
      pauseMode: null,
      agentUnresponsive: 0,
      startedAt: sandbox.startedAt ? timestampMs(sandbox.startedAt) : Date.now(),
      endAt: sandbox.endAt ? timestampMs(sandbox.endAt) : row.endAt,
    }
    const live = runningFromRow(resumed)
    running.add(live)
    await resumes.recordRunning(resumed, live, sandbox.address)
  }

  /** A sandbox that nobody has a row for: its start was interrupted before the row was written. */
  #orphan(sandbox: SandboxStatus): void {
    const { orphanGraceMs, running, store, logger } = this.#parts
    const id = sandbox.sandboxId
    const age = Date.now() - (sandbox.startedAt ? timestampMs(sandbox.startedAt) : 0)
    if (age < orphanGraceMs) {
      const recheck = async (): Promise<void> => {
        this.#orphanTimers.delete(id)
        if (!running.get(id) && !(await store.sandboxes.findById(id))) this.#orphan(sandbox)
      }
      const failed = (error: unknown) => logger.warn({ err: error, sandboxId: id }, 'orphan not checked')
      clearTimeout(this.#orphanTimers.get(id))
      this.#orphanTimers.set(id, setTimeout(() => void recheck().catch(failed), orphanGraceMs - age).unref())
      return
    }
    logger.warn({ sandboxId: id }, 'sandbox without a row is ended')
    // Not awaited: one that is hard to stop must not keep the others from being found.
    stopOn(this.#host, id).catch((error) => logger.error({ err: error, sandboxId: id }, 'orphan not ended'))
  }

  async #pauseFailed({ sandboxId, reason, retryAt }: HostEvent_PauseFailed): Promise<void> {
    const { running, logger, logs } = this.#parts
    if (!(await this.#reportedPauses.goOn(sandboxId))) return
    logger.warn({ sandboxId, reason }, 'sandbox not paused at its end')
    const teamId = running.get(sandboxId)?.teamId
    if (!teamId || !retryAt) return
    const again = new Date(timestampMs(retryAt)).toISOString()
    const message = `Sandbox was not paused at the end of its time and goes on; next attempt at ${again}`
    logs.append(sandboxId, teamId, 'error', message, { reason })
  }

  async #ended({ sandboxId, reason, paused }: HostEvent_Ended): Promise<void> {
    const entry = this.#parts.running.get(sandboxId)
    // While it starts or is killed, whoever does so takes care of the row.
    if (entry?.phase === 'starting') {
      entry.ended = paused
        ? { reason, snapshotId: paused.snapshotId, hasMemory: paused.hasMemory }
        : { reason }
    }
    if (entry?.phase === 'starting' || entry?.phase === 'killing') return
    if (entry && entry.hostId !== this.#host.id) return
    if (paused) await this.#recordPaused(paused, entry)
    else await this.#forget(sandboxId, reason)
  }

  async #recordPaused(paused: PausedSandbox, entry: RunningSandbox | undefined): Promise<void> {
    const { running, pauses } = this.#parts
    if (entry?.phase !== 'running') return pauses.record(this.#host.id, paused, entry)
    const row = await this.#parts.store.sandboxes.findById(paused.sandboxId)
    // Old news: it has been resumed from that snapshot since.
    if (row?.snapshotId === paused.snapshotId) return
    entry.phase = 'pausing'
    await running.during(entry, () => pauses.record(this.#host.id, paused, entry))
  }

  async #forget(sandboxId: string, reason: string): Promise<void> {
    const { running, store, logger, logs } = this.#parts
    const teamId = running.get(sandboxId)?.teamId
    running.remove(sandboxId)
    if (!(await store.sandboxes.deleteRunning(sandboxId, this.#host.id))) return
    logger.info({ sandboxId, reason }, 'sandbox ended')
    if (teamId)
      logs.append(sandboxId, teamId, reason === 'timeout' ? 'info' : 'warn', `Sandbox ended: ${reason}`)
  }

  async #forgetPaused(row: SandboxRow): Promise<void> {
    const { store, logger } = this.#parts
    if (await store.sandboxes.deletePaused(row.id, row.snapshotId)) {
      logger.error({ sandboxId: row.id, snapshotId: row.snapshotId }, 'paused sandbox is missing on its host')
    }
  }
}
