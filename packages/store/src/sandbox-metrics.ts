import type { SandboxMetricRow, StoreDb } from './schema.ts'

const ROWS_PER_INSERT = 100
/** Milliseconds of samples that one deletion takes at most: it holds up everything else. */
const DELETED_SPAN_MS = 2 * 60_000

/** Samples of what sandboxes use. Fine ones are kept for a shorter time than coarse ones. */
export class SandboxMetricRepository {
  readonly #db: StoreDb

  constructor(db: StoreDb) {
    this.#db = db
  }

  /** Samples that are there already are left as they are. */
  async insert(samples: readonly SandboxMetricRow[]): Promise<void> {
    for (let at = 0; at < samples.length; at += ROWS_PER_INSERT) {
      await this.#db
        .insertInto('sandboxMetrics')
        .values(samples.slice(at, at + ROWS_PER_INSERT))
        .onConflict((conflict) => conflict.doNothing())
        .execute()
    }
  }

  /** Oldest first; both ends inclusive, milliseconds since 1970. */
  async read(sandboxId: string, fromMs: number, toMs: number): Promise<SandboxMetricRow[]> {
    return this.#db
      .selectFrom('sandboxMetrics')
      .selectAll()
      .where('sandboxId', '=', sandboxId)
      .where('at', '>=', fromMs)
      .where('at', '<=', toMs)
      .orderBy('at')
      .execute()
  }

  /** The newest sample of each sandbox that has one. */
  async latest(sandboxIds: readonly string[]): Promise<SandboxMetricRow[]> {
    const found = await Promise.all(
      sandboxIds.map((id) =>
        this.#db
          .selectFrom('sandboxMetrics')
          .selectAll()
          .where('sandboxId', '=', id)
          .orderBy('at', 'desc')
          .limit(1)
          .executeTakeFirst(),
      ),
    )
    return found.filter((sample) => sample !== undefined)
  }

  /** Deletes some of the fine or the coarse samples from before a time; answers whether there may be more. */
  async deleteSomeBefore(kind: 'fine' | 'coarse', beforeMs: number): Promise<boolean> {
    const isCoarse = kind === 'coarse' ? 1 : 0
    const oldest = await this.#db
      .selectFrom('sandboxMetrics')
      .select('at')
      .where('isCoarse', '=', isCoarse)
      .orderBy('at')
      .limit(1)
      .executeTakeFirst()
    if (!oldest || oldest.at >= beforeMs) return false
    const end = Math.min(beforeMs, oldest.at + DELETED_SPAN_MS)
    await this.#db
      .deleteFrom('sandboxMetrics')
      .where('isCoarse', '=', isCoarse)
      .where('at', '<', end)
      .execute()
    return end < beforeMs
  }
}
