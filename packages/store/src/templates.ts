import type { ChangeCounter } from './changes.ts'
import type { StoreDb, Template, TemplateBuild } from './schema.ts'

/** A template with what a list shows of it. */
export interface DescribedTemplate {
  readonly template: Template
  /** The build of tag `default`, else the newest. */
  readonly build: TemplateBuild
  readonly aliases: readonly string[]
  /** Aliases with the owner's namespace. */
  readonly names: readonly string[]
  readonly buildCount: number
}

export interface TemplateFilter {
  /** Templates of one team, or only the platform's own. */
  readonly teamId?: string
  readonly onlyDefault?: boolean
  readonly limit: number
  /** Id of the last template of the page before. */
  readonly afterId?: string
}

function byTemplate<Row extends { readonly templateId: string }>(rows: readonly Row[]): Map<string, Row[]> {
  const groups = new Map<string, Row[]>()
  for (const row of rows) {
    const group = groups.get(row.templateId)
    if (group) group.push(row)
    else groups.set(row.templateId, [row])
  }
  return groups
}

export class TemplateRepository {
  readonly #db: StoreDb
  readonly #changes: ChangeCounter

  constructor(db: StoreDb, changes: ChangeCounter) {
    this.#db = db
    this.#changes = changes
  }

  async insert(template: Template): Promise<void> {
    await this.#db.insertInto('templates').values(template).execute()
    await this.#changes.announce()
  }

  async find(id: string): Promise<Template | undefined> {
    return this.#db.selectFrom('templates').selectAll().where('id', '=', id).executeTakeFirst()
  }

  async update(id: string, change: Partial<Omit<Template, 'id' | 'teamId'>>): Promise<boolean> {
    const result = await this.#db.updateTable('templates').set(change).where('id', '=', id).executeTakeFirst()
    await this.#changes.announce()
    return result.numUpdatedRows > 0n
  }

  async delete(id: string): Promise<boolean> {
    const result = await this.#db.deleteFrom('templates').where('id', '=', id).executeTakeFirst()
    await this.#changes.announce()
    return result.numDeletedRows > 0n
  }

  /** @throws a unique violation when the team has the alias already */
  async addAlias(teamId: string, alias: string, templateId: string, createdAt: number): Promise<void> {
    await this.#db.insertInto('templateAliases').values({ teamId, alias, templateId, createdAt }).execute()
    await this.#changes.announce()
  }

  /** Oldest first. */
  async listAliases(templateId: string): Promise<string[]> {
    const rows = await this.#db
      .selectFrom('templateAliases')
      .select('alias')
      .where('templateId', '=', templateId)
      .orderBy('createdAt')
      .orderBy('alias')
      .execute()
    return rows.map((row) => row.alias)
  }

  async findByAlias(teamId: string, alias: string): Promise<Template | undefined> {
    return this.#byAlias(alias).where('templateAliases.teamId', '=', teamId).executeTakeFirst()
  }

  /** Among the platform's own templates. */
  async findDefaultByAlias(alias: string): Promise<Template | undefined> {
    return this.#byAlias(alias)
      .where('templates.isDefault', '=', 1)
      .where('templates.isPublic', '=', 1)
      .orderBy('templates.createdAt')
      .executeTakeFirst()
  }

  async countSpawn(id: string, at: number): Promise<void> {
    await this.#db
      .updateTable('templates')
      .set(({ eb }) => ({ spawnCount: eb('spawnCount', '+', 1), lastSpawnedAt: at }))
      .where('id', '=', id)
      .execute()
  }

  /** Ordered by id; snapshots of sandboxes and templates without any build are left out. */
  async list(filter: TemplateFilter): Promise<DescribedTemplate[]> {
    let query = this.#db.selectFrom('templates').selectAll().where('isSnapshot', '=', 0)
    if (filter.teamId !== undefined) query = query.where('teamId', '=', filter.teamId)
    if (filter.onlyDefault) query = query.where('isDefault', '=', 1)
    if (filter.afterId !== undefined) query = query.where('id', '>', filter.afterId)
    const templates = await query
      .where(({ exists, selectFrom }) =>
        exists(selectFrom('templateBuilds').select('id').whereRef('templateId', '=', 'templates.id')),
      )
      .orderBy('id')
      .limit(filter.limit)
      .execute()
    return this.#describe(templates)
  }

  /** What lists show of one template; undefined when it has no build. */
  async describe(template: Template): Promise<DescribedTemplate | undefined> {
    const [described] = await this.#describe([template])
    return described?.build && described
  }

  #byAlias(alias: string) {
    return this.#db
      .selectFrom('templateAliases')
      .innerJoin('templates', 'templates.id', 'templateAliases.templateId')
      .selectAll('templates')
      .where('templateAliases.alias', '=', alias)
  }

  async #describe(templates: readonly Template[]): Promise<DescribedTemplate[]> {
    const ids = templates.map((template) => template.id)
    if (ids.length === 0) return []
    const [aliases, builds, tags] = await Promise.all([
      this.#db
        .selectFrom('templateAliases')
        .innerJoin('teams', 'teams.id', 'templateAliases.teamId')
        .select(['templateId', 'alias', 'slug'])
        .where('templateId', 'in', ids)
        .orderBy('templateAliases.createdAt')
        .execute(),
      this.#db
        .selectFrom('templateBuilds')
        .selectAll()
        .where('templateId', 'in', ids)
        .orderBy('createdAt', 'desc')
        .execute(),
      this.#db
        .selectFrom('templateTags')
        .select(['templateId', 'buildId'])
        .where('templateId', 'in', ids)
        .where('tag', '=', 'default')
        .execute(),
    ])
    const tagged = new Map(tags.map((tag) => [tag.templateId, tag.buildId]))
    const buildsById = byTemplate(builds)
    const aliasesById = byTemplate(aliases)
    return templates.map((template) => {
      const own = buildsById.get(template.id) ?? []
      const named = aliasesById.get(template.id) ?? []
      return {
        template,
        build: own.find((build) => build.id === tagged.get(template.id)) ?? own[0]!,
        aliases: named.map(({ alias }) => alias),
        names: named.map(({ alias, slug }) => `${slug}/${alias}`),
        buildCount: own.length,
      }
    })
  }
}
