import { createApiKey } from '@sandbox/api/operator'
import type { Config } from '../config.ts'
import { ensureTeam, openConfiguredStore } from '../tenancy.ts'

/** Creates an API key; the answer is the only place where it is ever seen. */
export async function createKey(
  config: Config,
  options: { team: string; name: string; json: boolean },
): Promise<string> {
  const store = await openConfiguredStore(config)
  try {
    const team = await ensureTeam(store, options.team)
    const { id, key } = await createApiKey(store, team.id, options.name)
    return options.json ? JSON.stringify({ id, key, team: team.slug }) : key
  } finally {
    await store.close()
  }
}
