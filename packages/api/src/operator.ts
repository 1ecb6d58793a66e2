import { ApiError } from '@sandbox/contract/errors'
import { kernelRandomBytes, newTemplateId, newUuid } from '@sandbox/contract/ids'
import type { Isolation } from '@sandbox/contract/rest/templates'
import type { ApiKey, Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import { hashApiKey } from './auth/api-key-cache.ts'

const KEY_PREFIX = 'e2b_'
const KEY_BYTES = 20
const NAME = /^[a-z0-9][a-z0-9_-]{0,127}$/

export interface NewTeam {
  readonly name: string
  /** Namespace of its templates; default made from the name. */
  readonly slug?: string
  readonly maxSandboxes?: number
  readonly maxHours?: number
}

export interface TemplateResources {
  readonly cpuCount: number
  readonly memoryMib: number
  readonly diskMib: number
}

export interface TemplateRegistration {
  /** The team that owns the template. */
  readonly teamId: string
  readonly name: string
  readonly snapshotId: string
  readonly envdVersion: string
  readonly resources: TemplateResources
  /** Every team may use it. */
  readonly isPublic: boolean
  /** The platform's own: every team finds it without a namespace. Default: as `isPublic`. */
  readonly isDefault?: boolean
  /** Engine of its sandboxes, where the template is new; later its owner alone changes it. Default: the machine's own. */
  readonly isolation?: Isolation
}

/** @throws ApiError 400, 409 when the slug is taken */
export async function createTeam(store: Store, team: NewTeam): Promise<Team> {
  const slug =
    team.slug ??
    team.name
      .toLowerCase()
      .replaceAll(/[^a-z0-9]+/g, '-')
      .replaceAll(/^-+|-+$/g, '')
  if (!NAME.test(slug))
    throw new ApiError('badRequest', `'${slug}' is not a namespace: use letters, digits, - and _`)
  if (await store.teams.findBySlug(slug)) throw new ApiError('conflict', `The namespace '${slug}' is taken`)
  const row: Team = {
    id: newUuid(),
    name: team.name,
    slug,
    maxSandboxes: team.maxSandboxes ?? null,
    maxHours: team.maxHours ?? null,
    isBlocked: 0,
    isBanned: 0,
    createdAt: Date.now(),
  }
  await store.teams.insert(row)
  return row
}

/**
 * Makes an API key for a team. The answer is the only place where the key is ever seen.
 * @param given an existing key to register instead, for example from a configuration
 */
export async function createApiKey(
  store: Store,
  teamId: string,
  name: string,
  given?: string,
): Promise<{ id: string; key: string; stored: ApiKey }> {
  if (given !== undefined && !/^e2b_[0-9a-f]{16,}$/.test(given)) {
    throw new ApiError('badRequest', 'An API key must be e2b_ and at least 16 hexadecimal digits')
  }
  const key = given ?? KEY_PREFIX + kernelRandomBytes(KEY_BYTES).toString('hex')
  const value = key.slice(KEY_PREFIX.length)
  const id = newUuid()
  const stored: ApiKey = {
    id,
    teamId,
    name,
    hash: hashApiKey(key),
    prefix: KEY_PREFIX,
    valueLength: value.length,
    maskedValuePrefix: value.slice(0, 2),
    maskedValueSuffix: value.slice(-4),
    createdAt: Date.now(),
    lastUsedAt: null,
  }
  await store.apiKeys.insert(stored)
  await store.sync()
  return { id, key, stored }
}

/** Answers whether the team had the key, which is refused from now on, for good when it resolves. */
export async function deleteApiKey(store: Store, teamId: string, id: string): Promise<boolean> {
  const isDeleted = await store.apiKeys.delete(teamId, id)
  if (isDeleted) await store.sync()
  return isDeleted
}

async function findOrCreateTemplate(
  store: Store,
  registration: TemplateRegistration,
  now: number,
): Promise<string> {
  const { teamId, name } = registration
  const isPublic = registration.isPublic ? 1 : 0
  const isDefault = (registration.isDefault ?? registration.isPublic) ? 1 : 0
  const known = await store.templates.findByAlias(teamId, name)
  if (known) {
    await store.templates.update(known.id, { isPublic, isDefault, updatedAt: now })
    return known.id
  }
  const id = newTemplateId()
  await store.templates.insert({
    id,
    teamId,
    isPublic,
    isDefault,
    isSnapshot: 0,
    isolation: registration.isolation ?? null,
    createdAt: now,
    updatedAt: now,
    spawnCount: 0,
    lastSpawnedAt: null,
  })
  await store.templates.addAlias(teamId, name, id, now)
  return id
}

/**
 * Makes a snapshot that a host has built startable under a name, as the build of tag `default`. Running servers
 * use it from the next create on. The same registration again changes nothing.
 */
export async function registerTemplate(
  store: Store,
  registration: TemplateRegistration,
): Promise<{ templateId: string; buildId: string }> {
  if (!NAME.test(registration.name)) {
    throw new ApiError('badRequest', `'${registration.name}' is not a template name: use a-z, 0-9, - and _`)
  }
  const now = Date.now()
  const templateId = await findOrCreateTemplate(store, registration, now)
  const { snapshotId, envdVersion, resources } = registration
  const current = await store.templateBuilds.findByTag(templateId, 'default')
  const isSame =
    current?.snapshotId === snapshotId &&
    current.envdVersion === envdVersion &&
    current.cpuCount === resources.cpuCount &&
    current.memoryMib === resources.memoryMib &&
    current.diskMib === resources.diskMib
  if (current && isSame) return { templateId, buildId: current.id }
  const buildId = newUuid()
  await store.templateBuilds.insert({
    id: buildId,
    templateId,
    status: 'ready',
    snapshotId,
    envdVersion,
    ...resources,
    reason: null,
    sourceSandboxId: null,
    hostId: null,
    createdAt: now,
    updatedAt: now,
    finishedAt: now,
  })
  await store.templateBuilds.assignTags([{ templateId, tag: 'default', buildId, assignedAt: now }])
  return { templateId, buildId }
}
