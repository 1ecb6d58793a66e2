import type { ExpressionBuilder, Transaction } from 'kysely'
import type { ChangeCounter } from './changes.ts'
import type { Database, LooseSnapshot, StoreDb, Template, TemplateBuild, TemplateTag } from './schema.ts'

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
  /** Taken unless the team has a template of that alias. */
  readonly template: Template
  readonly alias: string | null
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

/** The id of the template that has the alias from now on, this one or the one that has it already. */
async function insertTemplate(
  transaction: Transaction<Database>,
  template: Template,
  alias: string | null,
): Promise<string> {
  const { id, teamId, createdAt } = template
  await transaction.insertInto('templates').values(template).execute()
  if (alias === null) return id
  await transaction
    .insertInto('templateAliases')
    .values({ teamId, alias, templateId: id, createdAt })
    .onConflict((conflict) => conflict.columns(['teamId', 'alias']).doNothing())
    .execute()
  const { templateId } = await transaction
    .selectFrom('templateAliases')
    .select('templateId')
    .where('teamId', '=', teamId)
    .where('alias', '=', alias)
    .executeTakeFirstOrThrow()
  if (templateId !== id) await transaction.deleteFrom('templates').where('id', '=', id).execute()
  return templateId
}

/** Tags of the same template that were moved after the one of the outer query. */
function movedLater(
  builder: ExpressionBuilder<Database, 'templateTags'>,
  sourceSandboxId: string | undefined,
) {
  const tags = builder
    .selectFrom('templateTags as later')
    .innerJoin('templateBuilds as laterBuild', 'laterBuild.id', 'later.buildId')
    .select('later.tag')
    .whereRef('later.templateId', '=', 'templateTags.templateId')
    .where('laterBuild.sourceSandboxId', 'is not', null)
    .where(({ eb, and, or, ref }) =>
      or([
        eb('later.assignedAt', '>', ref('templateTags.assignedAt')),
        and([
          eb('later.assignedAt', '=', ref('templateTags.assignedAt')),
          eb('later.tag', '>', ref('templateTags.tag')),
        ]),
      ]),
    )
  return sourceSandboxId === undefined ? tags : tags.where('laterBuild.sourceSandboxId', '=', sourceSandboxId)
}

/** Snapshots of sandboxes, which are stored as builds of templates. */
export class SnapshotRepository {
  readonly #db: StoreDb
  readonly #changes: ChangeCounter

  constructor(db: StoreDb, changes: ChangeCounter) {
    this.#db = db
    this.#changes = changes
  }

  /** Writes everything of a snapshot in one step; from then on it is not a loose one. Answers the id of its template. */
  async insert({ template, alias, build, tag }: NewSnapshot): Promise<string> {
    const { id: buildId, createdAt } = build
    const id = await this.#db.transaction().execute(async (transaction) => {
      const templateId = await insertTemplate(transaction, template, alias)
      await transaction
        .insertInto('templateBuilds')
        .values({ ...build, templateId })
        .execute()
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
      return templateId
    })
    await this.#changes.announce()
    return id
  }

  /**
   * Removes builds, or their whole template, and notes in the same step what hosts must delete now. Answers whether
   * any of it was there.
   */
  async remove({ templateId, buildIds, loose }: SnapshotRemoval): Promise<boolean> {
    if (templateId === undefined && buildIds.length === 0) return false
    const isRemoved = await this.#db.transaction().execute(async (transaction) => {
      const removal =
        templateId === undefined
          ? transaction.deleteFrom('templateBuilds').where('id', 'in', [...buildIds])
          : transaction.deleteFrom('templates').where('id', '=', templateId)
      const { numDeletedRows } = await removal.executeTakeFirstOrThrow()
      if (numDeletedRows > 0n && loose.length > 0)
        await transaction
          .insertInto('looseSnapshots')
          .values([...loose])
          .onConflict((conflict) => conflict.column('snapshotId').doNothing())
          .execute()
      return numDeletedRows > 0n
    })
    await this.#changes.announce()
    return isRemoved
  }

  /** Snapshots of a team that no tag leads to and no sandbox was created from. */
  async listUnreachable(teamId: string, limit: number): Promise<TemplateBuild[]> {
    return this.#db
      .selectFrom('templateBuilds')
      .innerJoin('templates', 'templates.id', 'templateBuilds.templateId')
      .selectAll('templateBuilds')
      .where('templates.teamId', '=', teamId)
      .where('templateBuilds.sourceSandboxId', 'is not', null)
      .where(({ not, exists, selectFrom }) =>
        not(exists(selectFrom('templateTags').select('tag').whereRef('buildId', '=', 'templateBuilds.id'))),
      )
      .where(({ not, exists, selectFrom }) =>
        not(
          exists(
            selectFrom('sandboxes').select('sandboxes.id').whereRef('buildId', '=', 'templateBuilds.id'),
          ),
        ),
      )
      .limit(limit)
      .execute()
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

  /** One of each template: the tag that was moved last, of those that match. Newest first. */
  async list(filter: SnapshotFilter): Promise<Snapshot[]> {
    const { after, sourceSandboxId, tag } = filter
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
    if (sourceSandboxId) query = query.where('templateBuilds.sourceSandboxId', '=', sourceSandboxId)
    if (filter.templateId) query = query.where('templateTags.templateId', '=', filter.templateId)
    if (tag) query = query.where('templateTags.tag', '=', tag)
    else query = query.where((builder) => builder.not(builder.exists(movedLater(builder, sourceSandboxId))))
    if (after) {
      query = query.where(({ eb, refTuple, tuple }) =>
        eb(
          refTuple('templateBuilds.createdAt', 'templateBuilds.id'),
          '<',
          tuple(after.createdAt, after.buildId),
        ),
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
