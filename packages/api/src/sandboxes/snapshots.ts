import { ApiError } from '@sandbox/contract/errors'
import { newTemplateId, newUuid } from '@sandbox/contract/ids'
import type { SnapshotInfo } from '@sandbox/contract/rest/snapshots'
import type { SandboxRow, Team, Template, TemplateBuild } from '@sandbox/store/schema'
import type { Snapshot } from '@sandbox/store/snapshots'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { SandboxLogs } from '../observing/sandbox-logs.ts'
import type { HostEndpoint } from '../options.ts'
import { DEFAULT_TAG, parseTemplateName } from '../templates/resolver.ts'
import type { Captures } from './capturing.ts'
import type { Hosts } from './hosts.ts'

export interface SnapshotParts {
  readonly store: Store
  readonly hosts: Hosts
  readonly captures: Captures
  readonly maxSnapshots: number
  readonly logs: SandboxLogs
  readonly logger: Logger
}

export interface SnapshotQuery {
  readonly sandboxId?: string | undefined
  readonly name?: string | undefined
  readonly limit: number
  readonly after?: { readonly createdAt: number; readonly buildId: string } | undefined
}

/** Unreachable snapshots that go at once. */
const MAX_CLEANED = 100
/** Builds that one deletion looks at. */
const MAX_BUILDS = 10_000

const templateNotFound = (text: string): ApiError => new ApiError('notFound', `Template '${text}' not found`)

/** A snapshot as it is shown. */
export function snapshotInfo(
  snapshot: Pick<Snapshot, 'templateId' | 'slug' | 'alias' | 'tag'>,
): SnapshotInfo {
  const { alias, templateId, tag, slug } = snapshot
  if (alias === null) return { snapshotID: `${templateId}:${tag}`, names: [] }
  const name = `${slug}/${alias}`
  return { snapshotID: `${name}:${tag}`, names: [name] }
}

interface Target {
  readonly alias: string | null
  readonly tag: string
}

/** Snapshots that users make of sandboxes: builds of templates that nobody had to build. */
export class Snapshots {
  readonly #parts: SnapshotParts
  /** By team: those being made, which the store does not count yet. */
  readonly #making = new Map<string, number>()
  /** By team: the last cleaning under way. */
  readonly #cleaning = new Map<string, Promise<void>>()

  constructor(parts: SnapshotParts) {
    this.#parts = parts
  }

  /**
   * Keeps the state of a running sandbox, which goes on, as something new sandboxes can be created from.
   * @throws ApiError 400 name, 404, 409, 429 team limit, 503
   */
  async create(
    team: Team,
    sandboxId: string,
    name: string | undefined,
    memory: boolean,
  ): Promise<SnapshotInfo> {
    const target = readTarget(team, name)
    return this.#counted(team, () => this.#create(team, sandboxId, target, memory))
  }

  async #create(team: Team, sandboxId: string, target: Target, memory: boolean): Promise<SnapshotInfo> {
    const { captures, logger, logs, store } = this.#parts
    const snapshotId = newUuid()
    const order = { snapshotId, memory, ofPaused: 'notFound' } as const
    const { row, host } = await captures.capture(team, sandboxId, order)
    const template = newTemplate(team.id)
    const build = buildOf(row, template.id, snapshotId, host.id)
    let templateId: string
    try {
      templateId = await store.snapshots.insert({ template, build, ...target })
    } catch (error) {
      await this.#unrecord(build.id, snapshotId, host)
      throw error
    }
    await store.sync()
    logger.info({ sandboxId, teamId: team.id, templateId, snapshotId, memory }, 'snapshot created')
    logs.append(sandboxId, team.id, 'info', 'Snapshot created', { snapshotID: `${templateId}:${target.tag}` })
    await this.#deleteUnreachable(team.id)
    return snapshotInfo({ templateId, slug: team.slug, alias: target.alias, tag: target.tag })
  }

  /**
   * Takes a snapshot away that could not be recorded, and its build, also one whose write failed only in its answer.
   * While the store is away both stay: a build has its snapshot, and what has no build goes at the next start.
   */
  async #unrecord(buildId: string, snapshotId: string, host: HostEndpoint): Promise<void> {
    const { captures, logger, store } = this.#parts
    try {
      const loose = [captures.looseSnapshot(snapshotId, host.id)]
      await store.snapshots.remove({ buildIds: [buildId], loose })
    } catch (error) {
      logger.error({ err: error, hostId: host.id, snapshotId }, 'unrecorded snapshot not deleted yet')
      return
    }
    await captures.discard(host, snapshotId)
  }

  /** Newest first. A name without a tag matches any tag; an unknown one matches nothing. */
  async list(team: Team, query: SnapshotQuery): Promise<Snapshot[]> {
    const { store } = this.#parts
    const named = query.name === undefined ? undefined : await this.#findOwn(team, query.name)
    if (query.name !== undefined && !named) return []
    const tag = query.name === undefined ? undefined : parseTemplateName(query.name).tag
    return store.snapshots.list({
      teamId: team.id,
      limit: query.limit,
      ...(query.sandboxId ? { sourceSandboxId: query.sandboxId } : {}),
      ...(named ? { templateId: named.id } : {}),
      ...(tag ? { tag } : {}),
      ...(query.after ? { after: query.after } : {}),
    })
  }

  /**
   * Deletes a template of the team, or one tag of it where others are left.
   * @throws ApiError 400 sandboxes created from it are there, 404
   */
  async deleteTemplate(team: Team, text: string): Promise<void> {
    const { store, logger } = this.#parts
    const template = await this.#findOwn(team, text)
    if (!template) throw templateNotFound(text)
    const { tag } = parseTemplateName(text)
    const tags = await store.templateBuilds.listTags(template.id)
    const tagged = tags.find((candidate) => candidate.tag === tag)
    if (tag !== undefined && !tagged) throw templateNotFound(text)
    const all = await store.templateBuilds.list(template.id, MAX_BUILDS)
    const others = tags.filter((candidate) => candidate.tag !== tag)
    const isPart = tagged !== undefined && others.length > 0
    const isShared = others.some(({ buildId }) => buildId === tagged?.buildId)
    const doomed = isPart ? all.filter(({ id }) => id === tagged.buildId && !isShared) : all
    if (await store.sandboxes.usesBuilds(doomed.map(({ id }) => id))) {
      throw new ApiError(
        'badRequest',
        `Cannot delete '${text}': there are sandboxes that were created from it`,
      )
    }
    if (isPart && isShared) await store.templateBuilds.deleteTags(template.id, [tagged.tag])
    else if (!(await this.#remove(doomed, isPart ? undefined : template.id))) throw templateNotFound(text)
    logger.info({ teamId: team.id, templateId: template.id, builds: doomed.length }, 'template deleted')
  }

  /** @throws ApiError 429 when the team has as many as it may, those being made included */
  async #counted<T>(team: Team, make: () => Promise<T>): Promise<T> {
    const { store, maxSnapshots } = this.#parts
    let kept = await store.snapshots.count(team.id)
    if (kept >= maxSnapshots) {
      await this.#deleteUnreachable(team.id)
      kept = await store.snapshots.count(team.id)
    }
    const making = this.#making.get(team.id) ?? 0
    if (kept + making >= maxSnapshots) {
      throw new ApiError(
        'tooManySnapshots',
        `Your team has reached the maximum number of snapshots (${maxSnapshots}). Delete one, or ask the operator ` +
          'of this server to raise the limit (E2B_TEAM_SNAPSHOTS).',
      )
    }
    this.#making.set(team.id, making + 1)
    try {
      return await make()
    } finally {
      const left = (this.#making.get(team.id) ?? 1) - 1
      if (left > 0) this.#making.set(team.id, left)
      else this.#making.delete(team.id)
    }
  }

  /** By name or id, whatever its builds. @throws ApiError 400 malformed */
  async #findOwn(team: Team, text: string): Promise<Template | undefined> {
    const { templates } = this.#parts.store
    const { namespace, name } = parseTemplateName(text)
    if (namespace !== undefined) {
      return namespace === team.slug ? templates.findByAlias(team.id, name) : undefined
    }
    const byId = await templates.find(name)
    return byId?.teamId === team.id ? byId : templates.findByAlias(team.id, name)
  }

  /**
   * Deletes what tags pointed at before, once no sandbox is left that was created from it. Never rejects: what stays
   * is tried again with the next snapshot.
   */
  async #deleteUnreachable(teamId: string): Promise<void> {
    const cleaning = (this.#cleaning.get(teamId) ?? Promise.resolve()).then(() => this.#clean(teamId))
    this.#cleaning.set(teamId, cleaning)
    await cleaning
    if (this.#cleaning.get(teamId) === cleaning) this.#cleaning.delete(teamId)
  }

  async #clean(teamId: string): Promise<void> {
    try {
      const builds = await this.#parts.store.snapshots.listUnreachable(teamId, MAX_CLEANED)
      if (builds.length > 0) await this.#remove(builds)
    } catch (error) {
      this.#parts.logger.error({ err: error, teamId }, 'replaced snapshots not deleted')
    }
  }

  /** Of what was captured the snapshot goes too; what was built may be shared. Answers whether it was there. */
  async #remove(builds: readonly TemplateBuild[], templateId?: string): Promise<boolean> {
    const { store, hosts, captures } = this.#parts
    const loose = builds.flatMap(({ sourceSandboxId, snapshotId, hostId }) =>
      sourceSandboxId !== null && snapshotId !== null && hostId !== null
        ? [captures.looseSnapshot(snapshotId, hostId)]
        : [],
    )
    const buildIds = builds.map(({ id }) => id)
    const removal = { buildIds, loose, ...(templateId === undefined ? {} : { templateId }) }
    if (!(await store.snapshots.remove(removal))) return false
    for (const { snapshotId, hostId } of loose) {
      const host = hosts.get(hostId)
      if (host) await captures.discard(host, snapshotId)
    }
    return true
  }
}

/** @throws ApiError 400 malformed, or of another team */
function readTarget(team: Team, name: string | undefined): Target {
  if (name === undefined) return { alias: null, tag: DEFAULT_TAG }
  const { namespace, name: alias, tag = DEFAULT_TAG } = parseTemplateName(name)
  if (namespace !== undefined && namespace !== team.slug) {
    throw new ApiError('badRequest', `'${namespace}' is not the namespace of your team ('${team.slug}')`)
  }
  return { alias, tag }
}

function newTemplate(teamId: string): Template {
  const now = Date.now()
  return {
    id: newTemplateId(),
    teamId,
    isPublic: 0,
    isDefault: 0,
    isSnapshot: 1,
    isolation: null,
    createdAt: now,
    updatedAt: now,
    spawnCount: 0,
    lastSpawnedAt: null,
  }
}

function buildOf(row: SandboxRow, templateId: string, snapshotId: string, hostId: string): TemplateBuild {
  const now = Date.now()
  const { cpuCount, memoryMib, diskMib, envdVersion } = row
  return {
    id: newUuid(),
    templateId,
    status: 'ready',
    snapshotId,
    envdVersion,
    cpuCount,
    memoryMib,
    diskMib,
    reason: null,
    sourceSandboxId: row.id,
    hostId,
    createdAt: now,
    updatedAt: now,
    finishedAt: now,
  }
}
