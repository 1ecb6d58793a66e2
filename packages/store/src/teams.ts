import type { ChangeCounter } from './changes.ts'
import type { StoreDb, Team } from './schema.ts'

export class TeamRepository {
  readonly #db: StoreDb
  readonly #changes: ChangeCounter

  constructor(db: StoreDb, changes: ChangeCounter) {
    this.#db = db
    this.#changes = changes
  }

  async insert(team: Team): Promise<void> {
    await this.#db.insertInto('teams').values(team).execute()
    await this.#changes.announce()
  }

  async find(id: string): Promise<Team | undefined> {
    return this.#db.selectFrom('teams').selectAll().where('id', '=', id).executeTakeFirst()
  }

  async findBySlug(slug: string): Promise<Team | undefined> {
    return this.#db.selectFrom('teams').selectAll().where('slug', '=', slug).executeTakeFirst()
  }

  /** Oldest first. */
  async list(): Promise<Team[]> {
    return this.#db.selectFrom('teams').selectAll().orderBy('createdAt').orderBy('id').execute()
  }

  /** Changes limits or standing; answers whether the team exists. */
  async update(id: string, change: Partial<Omit<Team, 'id' | 'createdAt'>>): Promise<boolean> {
    const result = await this.#db.updateTable('teams').set(change).where('id', '=', id).executeTakeFirst()
    await this.#changes.announce()
    return result.numUpdatedRows > 0n
  }
}
