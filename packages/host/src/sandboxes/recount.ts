import type { Logger } from 'pino'
import type { Cell } from '../cells/cells.ts'
import type { UpperStore } from '../storage/uppers.ts'

/**
 * Gives sandboxes that have deleted what they inherited the room for it. One after the other: each reads a whole tree.
 * A guest with a disk of its own counts its files itself, and the engine has bounded what the disk takes here.
 */
export async function recountFiles(
  cells: Iterable<readonly [sandboxId: string, cell: Cell]>,
  uppers: Pick<UpperStore, 'recount'>,
  log: Pick<Logger, 'info' | 'warn'>,
): Promise<void> {
  for (const [sandboxId, { engine, upper }] of cells) {
    if (engine.writtenIn !== 'upper') continue
    try {
      const bytes = await uppers.recount(upper)
      if (bytes > 0) log.info({ event: 'sandbox.recounted', sandboxId, bytes })
    } catch (error) {
      log.warn({ event: 'sandbox.recounted', sandboxId, err: error })
    }
  }
}
