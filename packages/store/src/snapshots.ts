import type { ChangeCounter } from './changes.ts'
import type { LooseSnapshot, StoreDb, Template, TemplateBuild, TemplateTag } from './schema.ts'

/** A snapshot that users made of a sandbox: a tag of a template and the build behind it. */
export interface Snapshot {
  readonly templateId: string
  readonly buildId: string
  readonly tag: string
  readonly sourceSandboxId: string
  readonly createdAt: number
  /** Name and namespace, when it has one. */
  readonly alias: string | null
  readonly slug: string
}

export interface SnapshotFilter {
  readonly teamId: string
  readonly sourceSandboxId?: string
  readonly templateId?: string
  readonly tag?: string
  readonly limit: number
  /** The last snapshot of the page before. */
  readonly after?: { readonly createdAt: number; readonly buildId: string }
}

export interface NewSnapshot {
  /** Set when the snapshot is the first of its template. */
  readonly template?: Template
  readonly alias?: string
  readonly build: TemplateBuild
  readonly tag: string
}

export interface SnapshotRemoval {
  /** Set to remove the template with all of its builds. */
  readonly templateId?: string
  readonly buildIds: readonly string[]
  /** The snapshots behind them that exist for them alone. */
  readonly loose: readonly LooseSnapshot[]
}

/** Snapshots of sandboxes, which are stored as builds of templates. */
export class SnapshotRepository {
  readonly #db: StoreDb
  readonly #changes: ChangeCounter

  constructor(db: StoreDb, changes: ChangeCounter) {
    this.#db = db
    this.#changes = changes
  }

  /** Writes everything of a snapshot in one step; from then on it is not a loose one. @throws a unique violation when the name was taken meanwhile */
  async insert({ template, alias, build, tag }: NewSnapshot): Promise<void> {
    const { templateId, id: buildId, createdAt } = build
    await this.#db.transaction().execute(async (transaction) => {
      if (template) {
        await transaction.insertInto('templates').values(template).execute()
        if (alias !== undefined) {
          const named = { teamId: template.teamId, alias, templateId, createdAt }
          await transaction.insertInto('templateAliases').values(named).execute()
        }
      }
      await transaction.insertInto('templateBuilds').values(build).execute()
      const assigned: TemplateTag = { templateId, tag, buildId, assignedAt: createdAt }
      await transaction
        .insertInto('templateTags')
        .values(assigned)
        .onConflict((conflict) =>
          conflict.columns(['templateId', 'tag']).doUpdateSet({ buildId, assignedAt: createdAt }),
        )
        .execute()
      await transaction
        .deleteFrom('looseSnapshots')
        .where('snapshotId', '=', build.snapshotId ?? '')
        .execute()
    })
    await this.#changes.announce()
  }

  /** Removes builds, or their whole template, and notes in the same step what hosts must delete now. */
  async remove({ templateId, buildIds, loose }: SnapshotRemoval): Promise<void> {
    await this.#db.transaction().execute(async (transaction) => {
      if (loose.length > 0)
        await transaction
          .insertInto('looseSnapshots')
          .values([...loose])
          .execute()
      if (templateId !== undefined) {
        await transaction.deleteFrom('templates').where('id', '=', templateId).execute()
      } else if (buildIds.length > 0) {
        await transaction
          .deleteFrom('templateBuilds')
          .where('id', 'in', [...buildIds])
          .execute()
      }
    })
    await this.#changes.announce()
  }

  /** How many a team has; one with several tags is one. */
  async count(teamId: string): Promise<number> {
    const row = await this.#db
      .selectFrom('templateBuilds')
      .innerJoin('templates', 'templates.id', 'templateBuilds.templateId')
      .where('templates.teamId', '=', teamId)
      .where('templateBuilds.sourceSandboxId', 'is not', null)
      .select(({ fn }) => fn.countAll<number>().as('total'))
      .executeTakeFirstOrThrow()
    return Number(row.total)
  }

  /** Newest first. */
  async list(filter: SnapshotFilter): Promise<Snapshot[]> {
    const { after } = filter
    let query = this.#db
      .selectFrom('templateTags')
      .innerJoin('templateBuilds', 'templateBuilds.id', 'templateTags.buildId')
      .innerJoin('templates', 'templates.id', 'templateBuilds.templateId')
      .innerJoin('teams', 'teams.id', 'templates.teamId')
      .leftJoin('templateAliases', (join) =>
        join
          .onRef('templateAliases.templateId', '=', 'templates.id')
          .onRef('templateAliases.teamId', '=', 'templates.teamId'),
      )
      .select([
        'templateTags.templateId',
        'templateTags.tag',
        'templateBuilds.id as buildId',
        'templateBuilds.sourceSandboxId',
        'templateBuilds.createdAt',
        'templateAliases.alias',
        'teams.slug',
      ])
      .where('templates.teamId', '=', filter.teamId)
      .where('templateBuilds.sourceSandboxId', 'is not', null)
    if (filter.sourceSandboxId) {
      query = query.where('templateBuilds.sourceSandboxId', '=', filter.sourceSandboxId)
    }
    if (filter.templateId) query = query.where('templateTags.templateId', '=', filter.templateId)
    if (filter.tag) query = query.where('templateTags.tag', '=', filter.tag)
    if (after) {
      query = query.where(({ eb, and, or }) =>
        or([
          eb('templateBuilds.createdAt', '<', after.createdAt),
          and([
            eb('templateBuilds.createdAt', '=', after.createdAt),
            eb('templateBuilds.id', '<', after.buildId),
          ]),
        ]),
      )
    }
    const rows = await query
      .orderBy('templateBuilds.createdAt', 'desc')
      .orderBy('templateBuilds.id', 'desc')
      .limit(filter.limit)
      .execute()
    return rows.map((row) => ({ ...row, sourceSandboxId: row.sourceSandboxId! }))
  }
}
