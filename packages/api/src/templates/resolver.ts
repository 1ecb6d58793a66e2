import { ApiError } from '@sandbox/contract/errors'
import type { Team, Template } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'

/** What a name of a template stands for at this moment. */
export interface ResolvedTemplate {
  readonly templateId: string
  readonly alias: string | null
  readonly buildId: string
  readonly snapshotId: string
  /** The only host that has the snapshot; null where any may have it. */
  readonly hostId: string | null
  readonly envdVersion: string
  readonly cpuCount: number
  readonly memoryMib: number
  readonly diskMib: number
  /** Engine of its sandboxes; null takes what the snapshot was made for. */
  readonly isolation: string | null
}

interface TemplateName {
  readonly namespace?: string | undefined
  readonly name: string
  readonly tag?: string | undefined
}

const MAX_CACHED_NAMES = 10_000
const NAME = /^(?:([a-z0-9_-]{1,128})\/)?([a-z0-9_.-]{1,128})(?::([a-z0-9_.-]{1,128}))?$/
/** The tag that a name without one stands for. */
export const DEFAULT_TAG = 'default'

/** @throws ApiError 400 when it is not `[namespace/]name[:tag]` */
export function parseTemplateName(text: string): TemplateName {
  const match = NAME.exec(text.trim().toLowerCase())
  if (!match)
    throw new ApiError('badRequest', `Invalid template '${text}': give an id or [namespace/]name[:tag]`)
  return { namespace: match[1], name: match[2]!, tag: match[3] }
}

/** @param text the reference to the template, with or without the tag */
export function tagNotFound(text: string, tag: string): ApiError {
  return new ApiError('notFound', `tag '${tag}' does not exist for template '${text.split(':', 1)[0]}'`)
}

/** Finds templates and builds by id or name, as a team sees them. Remembers builds until the store changes. */
export class TemplateResolver {
  readonly #store: Store
  readonly #resolved = new Map<string, ResolvedTemplate>()
  #version = Number.NaN

  constructor(store: Store) {
    this.#store = store
  }

  /**
   * The build that a new sandbox starts from.
   * @throws ApiError 400 malformed, 403 another team's private template, 404 unknown template or tag
   */
  async resolve(team: Team, text: string): Promise<ResolvedTemplate> {
    const version = this.#store.version()
    if (version !== this.#version) {
      this.#resolved.clear()
      this.#version = version
    }
    const cacheKey = `${team.id} ${text}`
    const cached = this.#resolved.get(cacheKey)
    if (cached) return cached
    const resolved = await this.#load(team, text)
    if (version === this.#version) {
      if (this.#resolved.size >= MAX_CACHED_NAMES) this.#resolved.clear()
      this.#resolved.set(cacheKey, resolved)
    }
    return resolved
  }

  /**
   * The template that a name or id stands for, whatever its builds.
   * @throws ApiError 400 malformed, 403 another team's private template, 404 unknown
   */
  async findTemplate(team: Team, text: string): Promise<Template> {
    const { namespace, name } = parseTemplateName(text)
    const template =
      namespace === undefined ? await this.#unqualified(team, name) : await this.#qualified(namespace, name)
    if (!template) throw new ApiError('notFound', `Template '${text}' not found`)
    if (template.teamId !== team.id && !template.isPublic) {
      throw new ApiError('forbidden', `Team '${team.name}' has no access to template '${text}'`)
    }
    return template
  }

  /**
   * The same of the team's own ones.
   * @throws ApiError as findTemplate, and 403 another team's public template
   */
  async findOwn(team: Team, text: string): Promise<Template> {
    const template = await this.findTemplate(team, text)
    if (template.teamId !== team.id) {
      throw new ApiError('forbidden', `Template '${text}' belongs to another team`)
    }
    return template
  }

  async #load(team: Team, text: string): Promise<ResolvedTemplate> {
    const template = await this.findTemplate(team, text)
    const { tag = DEFAULT_TAG } = parseTemplateName(text)
    const [build, aliases] = await Promise.all([
      this.#store.templateBuilds.findByTag(template.id, tag),
      this.#store.templates.listAliases(template.id),
    ])
    if (!build) throw tagNotFound(text, tag)
    if (build.status !== 'ready' || !build.snapshotId || !build.envdVersion) {
      throw new ApiError('notFound', `Template '${text}' has no finished build with tag '${tag}'`)
    }
    return {
      templateId: template.id,
      alias: aliases[0] ?? null,
      buildId: build.id,
      snapshotId: build.snapshotId,
      hostId: build.hostId,
      envdVersion: build.envdVersion,
      cpuCount: build.cpuCount,
      memoryMib: build.memoryMib,
      diskMib: build.diskMib,
      isolation: template.isolation,
    }
  }

  /** The team's own names come before the platform's; nobody else's are found without a namespace. */
  async #unqualified(team: Team, name: string): Promise<Template | undefined> {
    const { templates } = this.#store
    return (
      (await templates.find(name)) ??
      (await templates.findByAlias(team.id, name)) ??
      (await templates.findDefaultByAlias(name))
    )
  }

  async #qualified(namespace: string, name: string): Promise<Template | undefined> {
    const owner = await this.#store.teams.findBySlug(namespace)
    return owner && this.#store.templates.findByAlias(owner.id, name)
  }
}
