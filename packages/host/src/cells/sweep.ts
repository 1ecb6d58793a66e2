import type { Logger } from 'pino'
import type { KeptSnapshots } from '../snapshots/kept-snapshots.ts'
import { adoptCell, type Cell, type CellParts, giveBack } from './cells.ts'
import type { JournalContent, JournalEntry } from './journal.ts'

/** Reconciles journal and kernel: what the journal knows and lives is taken in, everything else is removed. */

export interface SweepParts {
  cells: CellParts
  kept: KeptSnapshots
  /** Takes in a sandbox or a pooled one. */
  adopt: (entry: JournalEntry, cell: Cell) => Promise<void>
  log: Logger
}

export interface SweepResult {
  adopted: number
  removed: number
}

/**
 * Once, before the first start: no other cell may be open.
 * @param content read before slots and uppers were opened: they keep what its entries name and removed the rest
 */
export async function sweepAtStart(parts: SweepParts, content: JournalContent): Promise<SweepResult> {
  const { entries, stale } = content
  for (const name of stale) parts.cells.journal.removeStale(name)
  const outcomes = await Promise.all(entries.map((entry) => settleEntry(parts, entry)))
  const adopted = outcomes.filter(Boolean).length
  return { adopted, removed: entries.length - adopted + stale.length }
}

/** True when the entry was adopted; else nothing of it is left. One bad entry does not keep the others. */
async function settleEntry(parts: SweepParts, entry: JournalEntry): Promise<boolean> {
  const line = { sandboxId: entry.sandboxId, occupant: entry.occupant, slot: entry.slot.index }
  try {
    if (await adopt(parts, entry)) {
      parts.log.info({ event: 'sweep.adopted', ...line })
      return true
    }
    parts.log.info({ event: 'sweep.removed', ...line })
  } catch (error) {
    parts.log.error({ event: 'sweep.failed', ...line, err: error })
    // Nobody would know of it: the API is told that it is gone, and its slot would be nobody's for ever.
    giveBackIn(parts, entry)
  }
  return false
}

function giveBackIn({ cells, kept, log }: SweepParts, { slot, upper, sandboxId }: JournalEntry): void {
  try {
    giveBack(cells, slot, kept.upperIds().has(upper.id) ? undefined : upper, { isCleared: false })
  } catch (error) {
    log.error({ event: 'sweep.failed', sandboxId, slot: slot.index, err: error })
  }
}

async function adopt(parts: SweepParts, entry: JournalEntry): Promise<boolean> {
  const cell = await adoptCell(parts.cells, entry)
  // The pause was complete when the last daemon ended, only letting go was not.
  const isPaused = parts.kept.isPaused(entry.upper.id)
  const keepUpper = parts.kept.upperIds().has(entry.upper.id)
  if (!cell) {
    // It may be of an engine that is not installed any more.
    giveBack(parts.cells, entry.slot, keepUpper ? undefined : entry.upper, { isCleared: false })
    return false
  }
  // A pooled one of an agent before this one is nobody's yet: whoever comes next gets the new agent.
  const isOutdated = entry.occupant === 'pooled' && entry.agentDigest !== cell.engine.agentDigest
  if (isPaused || isOutdated || !entry.isReady || entry.occupant === 'build') {
    await cell.release({ keepUpper })
    return false
  }
  try {
    // A capture may have been under way that stood it still.
    if (entry.occupant === 'sandbox') await cell.thaw()
    if (entry.consumesSnapshot) await forgetSource(parts, entry)
    await parts.adopt(entry, cell)
    return true
  } catch (error) {
    await cell.release({ keepUpper })
    throw error
  }
}

/** It was resumed: what it was resumed from is no longer the sandbox, which runs whatever is left of that. */
async function forgetSource(
  { kept, log }: SweepParts,
  { sandboxId, snapshotId }: JournalEntry,
): Promise<void> {
  try {
    await kept.delete(snapshotId)
  } catch (error) {
    log.error({ event: 'snapshot.left', sandboxId, snapshotId, err: error })
  }
}
