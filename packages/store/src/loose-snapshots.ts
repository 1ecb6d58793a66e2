import type { LooseSnapshot, StoreDb } from './schema.ts'

/**
 * Snapshots that a host has, or is about to have, and that no build names: written down before they are made and
 * when they are to be deleted, so that an interrupted server finds them again.
 */
export class LooseSnapshotRepository {
  readonly #db: StoreDb

  constructor(db: StoreDb) {
    this.#db = db
  }

  async insert(snapshot: LooseSnapshot): Promise<void> {
    await this.#db.insertInto('looseSnapshots').values(snapshot).execute()
  }

  /** After it was deleted on its host. */
  async delete(snapshotId: string): Promise<void> {
    await this.#db.deleteFrom('looseSnapshots').where('snapshotId', '=', snapshotId).execute()
  }

  /** Those of one host that an owner other than the given one left behind before a time. */
  async listAbandoned(hostId: string, owner: string, createdBefore: number): Promise<LooseSnapshot[]> {
    return this.#db
      .selectFrom('looseSnapshots')
      .selectAll()
      .where('hostId', '=', hostId)
      .where('owner', '!=', owner)
      .where('createdAt', '<=', createdBefore)
      .execute()
  }
}
