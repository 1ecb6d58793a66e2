import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createApiKey, createTeam, registerTemplate } from '@sandbox/api/operator'
import { writeDurably } from '@sandbox/host/linux/durable'
import type { Team } from '@sandbox/store/schema'
import { openStore, type Store } from '@sandbox/store/store'
import { type Config, ConfigError } from './config.ts'
import { keyPath } from './operator-files.ts'

/**
 * The store of this configuration: PostgreSQL where a URL is given, else SQLite in the state directory.
 * @throws ConfigError when the URL is of no PostgreSQL; Error when it does not answer
 */
export async function openConfiguredStore(config: Config): Promise<Store> {
  if (config.databaseUrl) return openPostgres(config.databaseUrl)
  mkdirSync(config.stateDir, { recursive: true })
  return openStore({ path: join(config.stateDir, 'store.sqlite') })
}

async function openPostgres(url: string): Promise<Store> {
  // The URL may hold a password: no message shows it.
  if (!/^postgres(ql)?:\/\//.test(url)) {
    throw new ConfigError('DATABASE_URL (--database-url) must begin with postgres://')
  }
  try {
    return await openStore({ url })
  } catch (error) {
    const causes = error instanceof AggregateError ? error.errors : [error]
    const said = causes.map((cause) => (cause as Error).message).join('; ')
    throw new Error(`The database of DATABASE_URL cannot be opened: ${said}`, { cause: error })
  }
}

/** The team of a slug; made when missing. */
export async function ensureTeam(store: Store, slug: string): Promise<Team> {
  return (await store.teams.findBySlug(slug)) ?? (await createTeam(store, { name: slug, slug }))
}

/** The operator's own team and key: made once; the key lies in a file that root alone reads. */
export async function ensureOperator(store: Store, config: Config): Promise<Team> {
  const team = await ensureTeam(store, 'default')
  const path = keyPath(config)
  const known = (existsSync(path) && readFileSync(path, 'utf8').trim()) || undefined
  const keys = await store.apiKeys.list(team.id)
  if (known && keys.length > 0) return team
  const { key } = await createApiKey(store, team.id, 'operator', known)
  if (!known) await writeDurably(path, `${key}\n`, 0o600)
  return team
}

/** One template of the platform as the set-up leaves it beside the images. */
export interface PublishedTemplate {
  name: string
  snapshotId: string
  envdVersion: string
  resources: { cpuCount: number; memoryMib: number; diskMib: number }
}

export const publishedTemplatesPath = (config: Pick<Config, 'imagesDir'>): string =>
  join(config.imagesDir, 'templates.json')

/** What the set-up has built; empty before it ran. */
export function readPublishedTemplates(config: Pick<Config, 'imagesDir'>): PublishedTemplate[] {
  const path = publishedTemplatesPath(config)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as PublishedTemplate[]) : []
}

/** Makes the built templates startable by every team. Running it again changes nothing. */
export async function registerPublishedTemplates(
  store: Store,
  config: Config,
  owner: Team,
): Promise<string[]> {
  const templates = readPublishedTemplates(config)
  for (const template of templates)
    await registerTemplate(store, { ...template, teamId: owner.id, isPublic: true })
  return templates.map((template) => template.name)
}
