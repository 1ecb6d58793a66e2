import type { ChangeCounter } from './changes.ts'
import type { ApiKey, StoreDb, Team } from './schema.ts'

/** Who a key belongs to. */
export interface KeyOwner {
  readonly keyId: string
  readonly team: Team
}

export class ApiKeyRepository {
  readonly #db: StoreDb
  readonly #changes: ChangeCounter

  constructor(db: StoreDb, changes: ChangeCounter) {
    this.#db = db
    this.#changes = changes
  }

  async insert(key: ApiKey): Promise<void> {
    await this.#db.insertInto('apiKeys').values(key).execute()
    await this.#changes.announce()
  }

  /** The team a key belongs to, by the SHA-256 of the key in hex. */
  async findOwner(hash: string): Promise<KeyOwner | undefined> {
    const row = await this.#db
      .selectFrom('apiKeys')
      .innerJoin('teams', 'teams.id', 'apiKeys.teamId')
      .selectAll('teams')
      .select('apiKeys.id as keyId')
      .where('apiKeys.hash', '=', hash)
      .executeTakeFirst()
    if (!row) return undefined
    const { keyId, ...team } = row
    return { keyId, team }
  }

  /** Oldest first. */
  async list(teamId: string): Promise<ApiKey[]> {
    return this.#db
      .selectFrom('apiKeys')
      .selectAll()
      .where('teamId', '=', teamId)
      .orderBy('createdAt')
      .orderBy('id')
      .execute()
  }

  async rename(teamId: string, id: string, name: string): Promise<boolean> {
    const result = await this.#db
      .updateTable('apiKeys')
      .set({ name })
      .where('teamId', '=', teamId)
      .where('id', '=', id)
      .executeTakeFirst()
    return result.numUpdatedRows > 0n
  }

  async delete(teamId: string, id: string): Promise<boolean> {
    const result = await this.#db
      .deleteFrom('apiKeys')
      .where('teamId', '=', teamId)
      .where('id', '=', id)
      .executeTakeFirst()
    await this.#changes.announce()
    return result.numDeletedRows > 0n
  }

  async markUsed(id: string, at: number): Promise<void> {
    await this.#db.updateTable('apiKeys').set({ lastUsedAt: at }).where('id', '=', id).execute()
  }
}
