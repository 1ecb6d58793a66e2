import type { Logger } from 'pino'
import type { Cell } from '../cells/cells.ts'
import type { UpperSource } from '../cells/parts.ts'
import { HostError } from '../host-error.ts'
import { writeEarly } from '../linux/durable.ts'
import type { KeptDraft, KeptSnapshot, KeptSnapshots } from './kept-snapshots.ts'

/**
 * Makes snapshots of running sandboxes: asks the agent to prepare, holds the sandbox still, writes its memory, keeps
 * its files, and publishes both in one rename. Until that rename whatever fails leaves the sandbox running. A pause
 * waits for the disk before it ends the sandbox; one that goes on does so at once, only the answer waits.
 */

export interface KeepRequest {
  /** Id of the snapshot. */
  id: string
  memory: boolean
  /** A pause: the sandbox is gone when it is kept. Else it goes on. */
  isPause: boolean
  /** Refuse when the agent does not answer. */
  needsAgent: boolean
  /** Until the snapshot is published this gives it up. */
  signal: AbortSignal
}

export interface KeeperParts {
  kept: KeptSnapshots
  uppers: Pick<UpperSource, 'snapshot' | 'nameCopy' | 'recorded' | 'release' | 'usageBytes' | 'sync'>
  /** Bytes free where snapshots are written. */
  freeBytes: () => number
  log: Logger
}

const AGENT_WITHIN_MS = 5_000
/** Left free on the disk by a snapshot. */
const RESERVE_BYTES = 256 * 2 ** 20

export class Keeper {
  readonly #parts: KeeperParts

  constructor(parts: KeeperParts) {
    this.#parts = parts
  }

  /** @throws HostError exists, invalid, noRoom, unavailable; the reason of `signal`. The sandbox runs then */
  async keep(sandboxId: string, cell: Cell, request: KeepRequest): Promise<KeptSnapshot> {
    const startMs = performance.now()
    await this.#checkRoom(cell, request)
    const draft = await this.#parts.kept.draft(request.id)
    let answers = false
    const letGo = async (): Promise<void> => {
      if (answers) await releaseAgent(cell)
      answers = false
    }
    try {
      answers = await prepareAgent(cell)
      if (!answers && request.needsAgent) {
        throw new HostError(
          'unavailable',
          `the agent of sandbox '${sandboxId}' does not answer; the sandbox keeps running`,
        )
      }
      const preparedMs = performance.now()
      const snapshot = await this.#capture(sandboxId, cell, request, draft, !answers)
      const stillMs = performance.now() - preparedMs
      if (!request.isPause) {
        await letGo()
        await this.#publish(draft, snapshot, request)
      }
      this.#parts.log.info({
        event: request.isPause ? 'sandbox.kept' : 'sandbox.snapshot',
        sandboxId,
        snapshotId: request.id,
        memoryBytes: snapshot.memory?.sizeBytes,
        agentMs: Math.round(preparedMs - startMs),
        stillMs: Math.round(stillMs),
        tookMs: Math.round(performance.now() - startMs),
      })
      return snapshot
    } catch (error) {
      await this.#parts.kept.dropDraft(draft)
      throw error
    } finally {
      if (!this.#parts.kept.get(request.id)?.isPause) await letGo()
    }
  }

  /** Of a pause the snapshot is published when this resolves: only then its sandbox ends. Others are the caller's. */
  async #capture(
    sandboxId: string,
    cell: Cell,
    request: KeepRequest,
    draft: KeptDraft,
    agentUnresponsive: boolean,
  ): Promise<KeptSnapshot> {
    const { uppers, log } = this.#parts
    let copy = request.memory ? uppers.nameCopy(cell.upper) : undefined
    let captured: KeptSnapshot | undefined
    let isPublished = false
    const stopWriting = request.memory ? writeEarly(draft.memoryDir) : undefined
    try {
      await cell.capture({
        memoryDir: request.memory ? draft.memoryDir : undefined,
        leaveRunning: !request.isPause,
        ...(copy ? { upperCopyPath: copy.path } : {}),
        whileStill: async ({ sizeBytes }) => {
          await stopWriting?.()
          if (copy) copy = { ...copy, inheritedBytes: uppers.usageBytes(cell.upper) }
          else if (!request.isPause) copy = await uppers.snapshot(cell.upper)
          else await uppers.sync(cell.upper)
          captured = {
            version: 1,
            id: request.id,
            sandboxId,
            engine: cell.engine.name,
            isPause: request.isPause,
            layers: cell.layers.map(({ digest }) => digest),
            upper: copy ?? cell.upper,
            ofUpperId: cell.upper.id,
            limits: cell.limits,
            config: cell.config,
            memory: request.memory ? memoryOf(cell, sizeBytes) : undefined,
            agentUnresponsive,
            createdAtMs: Date.now(),
          }
          if (!request.isPause) return
          await this.#publish(draft, captured, request)
          isPublished = true
        },
      })
    } catch (error) {
      if (captured && isPublished) {
        // It is kept; what is left of it is for `release` to remove.
        log.error({ event: 'sandbox.kept', sandboxId, snapshotId: request.id, err: error })
        return captured
      }
      if (copy) uppers.release(copy)
      throw refusal(sandboxId, request, error)
    } finally {
      await stopWriting?.()
    }
    if (!captured) throw new HostError('failed', `snapshot '${request.id}' was not captured`)
    return captured
  }

  async #publish(draft: KeptDraft, snapshot: KeptSnapshot, request: KeepRequest): Promise<void> {
    const { kept, uppers } = this.#parts
    try {
      request.signal.throwIfAborted()
      await kept.publish(draft, snapshot)
      uppers.recorded(snapshot.upper)
    } catch (error) {
      if (snapshot.isPause) throw error
      uppers.release(snapshot.upper)
      throw refusal(snapshot.sandboxId, request, error)
    }
  }

  /** An estimate: pages that a restored sandbox shares with its snapshot count at most once more. */
  async #checkRoom(cell: Cell, { memory }: KeepRequest): Promise<void> {
    const freeBytes = this.#parts.freeBytes()
    const { memoryBytes } = memory ? await cell.usage() : { memoryBytes: 0 }
    if (freeBytes >= memoryBytes + RESERVE_BYTES) return
    const mebibytes = (bytes: number): number => Math.round(bytes / 2 ** 20)
    throw new HostError(
      'noRoom',
      `the disk of this host has ${mebibytes(freeBytes)} MiB left, keeping the sandbox takes about ` +
        `${mebibytes(memoryBytes)} and ${mebibytes(RESERVE_BYTES)} stay free; the sandbox keeps running`,
    )
  }
}

function refusal(sandboxId: string, { signal }: KeepRequest, error: unknown): unknown {
  if (signal.aborted) return signal.reason
  if (error instanceof HostError) return error
  const reason = error instanceof Error ? error.message : String(error)
  return new HostError('unavailable', `sandbox '${sandboxId}' keeps running: ${reason}`, error)
}

/** An agent that was upgraded since the sandbox started is not the one in its memory. */
const memoryOf = ({ engine, instance, agentDigest }: Cell, sizeBytes: number): KeptSnapshot['memory'] => ({
  hostClass: engine.memoryClass(instance, agentDigest),
  agentDigest,
  sizeBytes,
})

/** False when the agent does not answer; whatever it answers, it lives. */
async function prepareAgent(cell: Cell): Promise<boolean> {
  for (const { port, path } of cell.config.beforeCapture) {
    await cell.agent
      .send({ method: 'POST', path, port, json: {}, timeoutMs: AGENT_WITHIN_MS })
      .catch(() => {})
  }
  const call = { method: 'POST', path: '/freeze', json: {}, timeoutMs: AGENT_WITHIN_MS } as const
  const answer = await cell.agent.send(call).catch(() => undefined)
  // This side's idle connections: in the snapshot they would be dead ones.
  cell.agent.disconnect()
  return answer !== undefined
}

/** Best effort: an agent that does not hear it resumes with the next `/init`. */
async function releaseAgent(cell: Cell): Promise<void> {
  const call = { method: 'POST', path: '/unfreeze', json: {}, timeoutMs: AGENT_WITHIN_MS } as const
  await cell.agent.send(call).catch(() => {})
}
