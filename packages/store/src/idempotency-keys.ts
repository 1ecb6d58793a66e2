import type { IdempotencyKey, StoreDb } from './schema.ts'

export class IdempotencyKeyRepository {
  readonly #db: StoreDb

  constructor(db: StoreDb) {
    this.#db = db
  }

  /**
   * Takes a key for a request.
   * @returns undefined when it was free, else what holds it
   */
  async take(entry: Omit<IdempotencyKey, 'state' | 'answer'>): Promise<IdempotencyKey | undefined> {
    for (;;) {
      const inserted = await this.#db
        .insertInto('idempotencyKeys')
        .values({ ...entry, state: 'in_progress', answer: null })
        .onConflict((conflict) => conflict.columns(['teamId', 'key']).doNothing())
        .executeTakeFirst()
      if ((inserted.numInsertedOrUpdatedRows ?? 0n) > 0n) return undefined
      const holder = await this.#db
        .selectFrom('idempotencyKeys')
        .selectAll()
        .where('teamId', '=', entry.teamId)
        .where('key', '=', entry.key)
        .executeTakeFirst()
      // Given back in between, it is nobody's: it has to be taken all the same.
      if (holder) return holder
    }
  }

  /** Gives a key back after a request of this owner that left nothing behind. */
  async release(teamId: string, key: string, owner: string): Promise<void> {
    await this.#db
      .deleteFrom('idempotencyKeys')
      .where('teamId', '=', teamId)
      .where('key', '=', key)
      .where('owner', '=', owner)
      .execute()
  }

  async deleteOlderThan(createdAt: number): Promise<void> {
    await this.#db.deleteFrom('idempotencyKeys').where('createdAt', '<', createdAt).execute()
  }
}
