import { type ExpressionBuilder, type ExpressionWrapper, type SqlBool, sql } from 'kysely'
import type { Database, NewSandboxRow, SandboxRow, SandboxRowState, StoreDb } from './schema.ts'

/** Which sandboxes of a team; all conditions hold together. */
export interface SandboxFilter {
  readonly teamId: string
  readonly states: readonly SandboxRowState[]
  readonly metadata?: Readonly<Record<string, string>>
  readonly templateId?: string
  /** Inclusive, milliseconds. */
  readonly startedAfter?: number
}

export interface SandboxPage {
  readonly order: 'asc' | 'desc'
  readonly limit: number
  /** The last sandbox of the page before. */
  readonly after?: { readonly startedAt: number; readonly id: string }
}

/** What is known of a pause. */
export type PauseRecord = Pick<SandboxRow, 'snapshotId' | 'pauseMode' | 'agentUnresponsive' | 'endAt'>

/** The idempotency key that an insert completes. */
export interface CompletedKey {
  readonly key: string
  /** The answer without its tokens, JSON. */
  readonly answer: string
}

const LISTED = [
  ...(['id', 'teamId', 'templateId', 'alias', 'state', 'agentUnresponsive', 'startedAt', 'endAt'] as const),
  ...(['cpuCount', 'memoryMib', 'diskMib', 'envdVersion', 'metadata', 'config'] as const),
] as const
/** What lists show of a sandbox. */
export type ListedRow = Pick<SandboxRow, (typeof LISTED)[number]>

export class SandboxRepository {
  readonly #db: StoreDb
  readonly #metadataSyntax: 'sqlite' | 'postgres'

  constructor(db: StoreDb, metadataSyntax: 'sqlite' | 'postgres') {
    this.#db = db
    this.#metadataSyntax = metadataSyntax
  }

  /** Writes the row of a started sandbox and, in the same step, the outcome of its idempotency key. */
  async insert(row: NewSandboxRow, completed?: CompletedKey): Promise<void> {
    if (!completed) {
      await this.#db.insertInto('sandboxes').values(row).execute()
      return
    }
    await this.#db.transaction().execute(async (transaction) => {
      await transaction.insertInto('sandboxes').values(row).execute()
      await transaction
        .updateTable('idempotencyKeys')
        .set({ state: 'done', answer: completed.answer })
        .where('teamId', '=', row.teamId)
        .where('key', '=', completed.key)
        .execute()
    })
  }

  async find(teamId: string, id: string): Promise<SandboxRow | undefined> {
    return this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('id', '=', id)
      .where('teamId', '=', teamId)
      .executeTakeFirst()
  }

  /** Those of the ids that are sandboxes of the team. */
  async findOwned(teamId: string, ids: readonly string[]): Promise<string[]> {
    if (ids.length === 0) return []
    const rows = await this.#db
      .selectFrom('sandboxes')
      .select('id')
      .where('teamId', '=', teamId)
      .where('id', 'in', [...ids])
      .execute()
    return rows.map((row) => row.id)
  }

  /** Of any team: for the control plane itself. */
  async findById(id: string): Promise<SandboxRow | undefined> {
    return this.#db.selectFrom('sandboxes').selectAll().where('id', '=', id).executeTakeFirst()
  }

  /** Everything that the store believes to run on one machine. */
  async listRunning(hostId: string): Promise<SandboxRow[]> {
    return this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('hostId', '=', hostId)
      .where('state', '!=', 'paused')
      .execute()
  }

  /** Everything on one machine, paused sandboxes too. */
  async listOnHost(hostId: string): Promise<SandboxRow[]> {
    return this.#db.selectFrom('sandboxes').selectAll().where('hostId', '=', hostId).execute()
  }

  /** Everything of one team that runs. */
  async listRunningOfTeam(teamId: string): Promise<SandboxRow[]> {
    return this.#db
      .selectFrom('sandboxes')
      .selectAll()
      .where('teamId', '=', teamId)
      .where('state', '!=', 'paused')
      .execute()
  }

  async list(filter: SandboxFilter, page: SandboxPage): Promise<ListedRow[]> {
    const { after, order } = page
    const direction = order === 'asc' ? '>' : '<'
    let query = this.#db
      .selectFrom('sandboxes')
      .select(LISTED)
      .where((builder) => this.#matches(builder, filter))
    if (after) {
      query = query.where(({ eb, refTuple, tuple }) =>
        eb(refTuple('startedAt', 'id'), direction, tuple(after.startedAt, after.id)),
      )
    }
    return query.orderBy('startedAt', order).orderBy('id', order).limit(page.limit).execute()
  }

  async count(filter: SandboxFilter): Promise<number> {
    const row = await this.#db
      .selectFrom('sandboxes')
      .select(({ fn }) => fn.countAll<number>().as('total'))
      .where((builder) => this.#matches(builder, filter))
      .executeTakeFirstOrThrow()
    return Number(row.total)
  }

  async setEnd(id: string, endAt: number): Promise<void> {
    await this.#db.updateTable('sandboxes').set({ endAt }).where('id', '=', id).execute()
  }

  /** Answers whether the sandbox is there. */
  async update(id: string, change: Partial<Omit<SandboxRow, 'id' | 'teamId'>>): Promise<boolean> {
    const result = await this.#db.updateTable('sandboxes').set(change).where('id', '=', id).executeTakeFirst()
    return result.numUpdatedRows > 0n
  }

  /** Answers whether the sandbox was there. */
  async delete(id: string): Promise<boolean> {
    const result = await this.#db.deleteFrom('sandboxes').where('id', '=', id).executeTakeFirst()
    return result.numDeletedRows > 0n
  }

  /** Removes a row unless the sandbox is paused or runs elsewhere by now; answers whether it did. */
  async deleteRunning(id: string, hostId: string): Promise<boolean> {
    const result = await this.#db
      .deleteFrom('sandboxes')
      .where('id', '=', id)
      .where('hostId', '=', hostId)
      .where('state', '!=', 'paused')
      .executeTakeFirst()
    return result.numDeletedRows > 0n
  }

  /**
   * Records that a sandbox was paused. Answers false when it is recorded already, runs elsewhere, or runs again
   * from that very snapshot, unless that resume is known to be `undone`.
   */
  async markPaused(
    id: string,
    hostId: string,
    pause: PauseRecord,
    { undone = false }: { readonly undone?: boolean } = {},
  ): Promise<boolean> {
    let query = this.#db
      .updateTable('sandboxes')
      .set({ state: 'paused', ...pause })
      .where('id', '=', id)
      .where('hostId', '=', hostId)
      .where('state', '!=', 'paused')
    if (!undone) query = query.where('snapshotId', '!=', pause.snapshotId)
    const result = await query.executeTakeFirst()
    return result.numUpdatedRows > 0n
  }

  /** Removes the row of a paused sandbox whose snapshot is gone; answers whether it did. */
  async deletePaused(id: string, snapshotId: string): Promise<boolean> {
    const result = await this.#db
      .deleteFrom('sandboxes')
      .where('id', '=', id)
      .where('state', '=', 'paused')
      .where('snapshotId', '=', snapshotId)
      .executeTakeFirst()
    return result.numDeletedRows > 0n
  }

  /** Whether any sandbox, running or paused, was created from one of these builds. */
  async usesBuilds(buildIds: readonly string[]): Promise<boolean> {
    if (buildIds.length === 0) return false
    const row = await this.#db
      .selectFrom('sandboxes')
      .select('id')
      .where('buildId', 'in', [...buildIds])
      .limit(1)
      .executeTakeFirst()
    return row !== undefined
  }

  #matches(
    builder: ExpressionBuilder<Database, 'sandboxes'>,
    filter: SandboxFilter,
  ): ExpressionWrapper<Database, 'sandboxes', SqlBool> {
    const conditions = [builder('teamId', '=', filter.teamId), builder('state', 'in', [...filter.states])]
    if (filter.templateId !== undefined) conditions.push(builder('templateId', '=', filter.templateId))
    if (filter.startedAfter !== undefined) conditions.push(builder('startedAt', '>=', filter.startedAfter))
    const pairs = Object.entries(filter.metadata ?? {}).map(([key, value]) => this.#hasPair(key, value))
    return builder.and([...conditions, ...pairs])
  }

  #hasPair(key: string, value: string) {
    return this.#metadataSyntax === 'postgres'
      ? sql<SqlBool>`metadata::jsonb ->> ${key} = ${value}`
      : sql<SqlBool>`exists (select 1 from json_each(metadata) as pair where pair.key = ${key} and pair.value = ${value})`
  }
}
