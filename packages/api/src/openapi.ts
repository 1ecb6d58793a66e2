import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { openStore } from '@sandbox/store/store'
import { pino } from 'pino'
import { stringify } from 'yaml'
import { createApi } from './api.ts'

/** Where the generated document is kept. */
export const OPENAPI_PATH = join(import.meta.dirname, '..', 'openapi.yaml')

/** The OpenAPI document of the API, from the schemas of its routes, as YAML. */
export async function generateOpenapi(): Promise<string> {
  const store = await openStore({ path: ':memory:' })
  const limits = { maxSandboxes: 1, maxHours: 1, maxSnapshots: 1 }
  const api = await createApi({ store, hosts: [], limits, logger: pino({ level: 'silent' }), openapi: true })
  const document = JSON.parse(JSON.stringify(api.app.swagger())) as unknown
  await api.close()
  await store.close()
  return stringify(document, { aliasDuplicateObjects: false, lineWidth: 110 })
}

if (process.argv[1] === import.meta.filename) writeFileSync(OPENAPI_PATH, await generateOpenapi())
