import type { ChangeCounter } from './changes.ts'
import type { StoreDb, TemplateBuild, TemplateTag } from './schema.ts'

/** Builds of templates and the tags that point at them. */
export class TemplateBuildRepository {
  readonly #db: StoreDb
  readonly #changes: ChangeCounter

  constructor(db: StoreDb, changes: ChangeCounter) {
    this.#db = db
    this.#changes = changes
  }

  async insert(build: TemplateBuild): Promise<void> {
    await this.#db.insertInto('templateBuilds').values(build).execute()
    await this.#changes.announce()
  }

  async find(templateId: string, id: string): Promise<TemplateBuild | undefined> {
    return this.#db
      .selectFrom('templateBuilds')
      .selectAll()
      .where('id', '=', id)
      .where('templateId', '=', templateId)
      .executeTakeFirst()
  }

  /** Changes status or result; answers whether the build exists. */
  async update(id: string, change: Partial<Omit<TemplateBuild, 'id' | 'templateId'>>): Promise<boolean> {
    const result = await this.#db
      .updateTable('templateBuilds')
      .set(change)
      .where('id', '=', id)
      .executeTakeFirst()
    await this.#changes.announce()
    return result.numUpdatedRows > 0n
  }

  /**
   * Newest first.
   * @param after the last build of the page before
   */
  async list(
    templateId: string,
    limit: number,
    after?: Pick<TemplateBuild, 'createdAt' | 'id'>,
  ): Promise<TemplateBuild[]> {
    let query = this.#db.selectFrom('templateBuilds').selectAll().where('templateId', '=', templateId)
    if (after) {
      query = query.where(({ eb, refTuple, tuple }) =>
        eb(refTuple('createdAt', 'id'), '<', tuple(after.createdAt, after.id)),
      )
    }
    return query.orderBy('createdAt', 'desc').orderBy('id', 'desc').limit(limit).execute()
  }

  async findByTag(templateId: string, tag: string): Promise<TemplateBuild | undefined> {
    return this.#db
      .selectFrom('templateTags')
      .innerJoin('templateBuilds', 'templateBuilds.id', 'templateTags.buildId')
      .selectAll('templateBuilds')
      .where('templateTags.templateId', '=', templateId)
      .where('templateTags.tag', '=', tag)
      .executeTakeFirst()
  }

  /** Points different tags at builds, all or none, moving those that exist. */
  async assignTags(tags: readonly TemplateTag[]): Promise<void> {
    await this.#db
      .insertInto('templateTags')
      .values([...tags])
      .onConflict((conflict) =>
        conflict.columns(['templateId', 'tag']).doUpdateSet(({ ref }) => ({
          buildId: ref('excluded.buildId'),
          assignedAt: ref('excluded.assignedAt'),
        })),
      )
      .execute()
    await this.#changes.announce()
  }

  async listTags(templateId: string): Promise<TemplateTag[]> {
    return this.#db
      .selectFrom('templateTags')
      .selectAll()
      .where('templateId', '=', templateId)
      .orderBy('tag')
      .execute()
  }

  /** Snapshots that a tag leads to: what new sandboxes can be started from. */
  async listTaggedSnapshots(): Promise<string[]> {
    const rows = await this.#db
      .selectFrom('templateTags')
      .innerJoin('templateBuilds', 'templateBuilds.id', 'templateTags.buildId')
      .select('snapshotId')
      .distinct()
      .execute()
    return rows.flatMap(({ snapshotId }) => snapshotId ?? [])
  }

  /** All that are there or none. */
  async deleteTags(templateId: string, tags: readonly string[]): Promise<void> {
    await this.#db
      .deleteFrom('templateTags')
      .where('templateId', '=', templateId)
      .where('tag', 'in', [...tags])
      .execute()
    await this.#changes.announce()
  }
}
