import type { StoreDb, TeamMetricRow } from './schema.ts'

/** Samples of what teams have running. */
export class TeamMetricRepository {
  readonly #db: StoreDb

  constructor(db: StoreDb) {
    this.#db = db
  }

  /** Samples that are there already are left as they are. */
  async insert(samples: readonly TeamMetricRow[]): Promise<void> {
    await this.#db
      .insertInto('teamMetrics')
      .values([...samples])
      .onConflict((conflict) => conflict.doNothing())
      .execute()
  }

  /** Oldest first; both ends inclusive, milliseconds since 1970. */
  async read(teamId: string, fromMs: number, toMs: number): Promise<TeamMetricRow[]> {
    return this.#db
      .selectFrom('teamMetrics')
      .selectAll()
      .where('teamId', '=', teamId)
      .where('at', '>=', fromMs)
      .where('at', '<=', toMs)
      .orderBy('at')
      .execute()
  }

  async deleteBefore(beforeMs: number): Promise<void> {
    await this.#db.deleteFrom('teamMetrics').where('at', '<', beforeMs).execute()
  }
}
