import type { Team } from '@sandbox/store/schema'
import { openStore, type Store, type StoreOptions } from '@sandbox/store/store'
import { type Logger, pino } from 'pino'
import { type Api, createApi } from '../api.ts'
import { createApiKey, createTeam, registerTemplate } from '../operator.ts'
import type { ApiOptions } from '../options.ts'
import { ScriptedHost } from './scripted-host.ts'

export interface TestApi {
  readonly api: Api
  readonly store: Store
  readonly host: ScriptedHost
  readonly team: Team
  readonly key: string
  readonly templateId: string
  /** Sends a JSON request with the team's key. */
  request(method: string, url: string, body?: unknown, headers?: Record<string, string>): Promise<TestAnswer>
  /** Makes another team with a key. */
  otherTeam(): Promise<{ team: Team; key: string }>
  /** Closes the API and opens another one on the same store and host, as a restart does. */
  restart(options?: Partial<ApiOptions>): Promise<TestApi>
  close(): Promise<void>
}

export interface TestAnswer {
  readonly status: number
  readonly headers: Record<string, unknown>
  readonly text: string
  json<T = Record<string, unknown>>(): T
}

export interface TestApiOptions extends Partial<ApiOptions> {
  readonly database?: StoreOptions
  readonly host?: ScriptedHost
}

export const RESOURCES = { cpuCount: 2, memoryMib: 512, diskMib: 1024 }

const silent: Logger = pino({ level: 'silent' })

async function assemble(
  parts: Omit<TestApi, 'api' | 'request' | 'otherTeam' | 'restart' | 'close'>,
  options: Partial<ApiOptions>,
) {
  const api = await createApi({
    store: parts.store,
    hosts: [parts.host.endpoint],
    limits: { maxSandboxes: 20, maxHours: 1, maxSnapshots: 20 },
    logger: silent,
    ...options,
  })
  const testApi: TestApi = {
    ...parts,
    api,
    async request(method, url, body, headers = {}) {
      const answer = await api.app.inject({
        method: method as 'GET',
        url,
        headers: { 'x-api-key': parts.key, ...headers },
        ...(body === undefined ? {} : { payload: body as object }),
      })
      const { statusCode: status, body: text } = answer
      return { status, headers: answer.headers, text, json: <T>() => JSON.parse(text) as T }
    },
    async otherTeam() {
      const team = await createTeam(parts.store, { name: 'Other' })
      return { team, key: (await createApiKey(parts.store, team.id, 'other')).key }
    },
    async restart(changed = {}) {
      await api.close()
      return assemble(parts, { ...options, ...changed })
    },
    async close() {
      await api.close()
      parts.host.close()
      await parts.store.close()
    },
  }
  return testApi
}

/** A control plane on a fresh database with one scripted host, one team with a key and the template `base`. */
export async function startTestApi({ database, host, ...options }: TestApiOptions = {}): Promise<TestApi> {
  const store = await openStore(database ?? { path: ':memory:' })
  const platform = await createTeam(store, { name: 'Platform' })
  const team = await createTeam(store, { name: 'Test' })
  const { key } = await createApiKey(store, team.id, 'test')
  const { templateId } = await registerTemplate(store, {
    teamId: platform.id,
    name: 'base',
    snapshotId: 'snapshot-base',
    envdVersion: '0.6.13',
    resources: RESOURCES,
    isPublic: true,
  })
  return assemble({ store, host: host ?? new ScriptedHost(), team, key, templateId }, options)
}
