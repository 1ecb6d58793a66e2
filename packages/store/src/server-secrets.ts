import type { StoreDb } from './schema.ts'

export class ServerSecretRepository {
  readonly #db: StoreDb

  constructor(db: StoreDb) {
    this.#db = db
  }

  /** The stored secret; the first caller's `candidate` becomes it. */
  async getOrCreate(name: string, candidate: string): Promise<string> {
    await this.#db
      .insertInto('serverSecrets')
      .values({ name, value: candidate })
      .onConflict((conflict) => conflict.column('name').doNothing())
      .execute()
    const row = await this.#db
      .selectFrom('serverSecrets')
      .select('value')
      .where('name', '=', name)
      .executeTakeFirstOrThrow()
    return row.value
  }
}
