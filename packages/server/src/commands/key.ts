import { createApiKey } from '@sandbox/api/operator'
import { type Config, ConfigError } from '../config.ts'
import { ensureTeam, openConfiguredStore } from '../tenancy.ts'

const SLUG = /^[a-z0-9][a-z0-9_-]{0,127}$/

/**
 * Creates an API key; the answer is the only place where it is ever seen.
 * @throws ConfigError for a team or a name that cannot be
 */
export async function createKey(
  config: Config,
  options: { team: string; name: string; json: boolean },
): Promise<string> {
  if (!SLUG.test(options.team)) {
    throw new ConfigError(`--team takes small letters, digits, - and _, not '${options.team}'`)
  }
  if (options.name.trim() === '') throw new ConfigError('--name says what the key is called: give some text')
  const store = await openConfiguredStore(config)
  try {
    const team = await ensureTeam(store, options.team)
    const { id, key } = await createApiKey(store, team.id, options.name)
    return options.json ? JSON.stringify({ id, key, team: team.slug }) : key
  } finally {
    await store.close()
  }
}
