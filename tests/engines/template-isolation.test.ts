/** A template that asks for another engine than the machine's own, by the API and by the operator's command. */
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createTestServer } from '../system/harness/server.ts'
import { enginesUnderTest } from './engines-under-test.ts'

const FIRST_BOOT_MS = 120_000
const main = join(import.meta.dirname, '../../packages/server/src/main.ts')

const gvisor = enginesUnderTest.find(({ name }) => name === 'gvisor')!

// The suites for all engines say so when it is not installed.
describe.skipIf(gvisor.missing !== undefined)('isolation of a template', () => {
  const server = createTestServer(8, { E2B_POOL_MAX: '2' })
  beforeAll(() => server.start(), FIRST_BOOT_MS)
  afterAll(() => server.dispose(), FIRST_BOOT_MS)

  const call = async (method: string, path: string, body?: object): Promise<Record<string, unknown>> => {
    const answer = await fetch(`http://127.0.0.1:${server.config.apiPort}${path}`, {
      method,
      headers: { 'X-API-Key': server.clientEnv.E2B_API_KEY!, 'Content-Type': 'application/json' },
      ...(body ? { body: JSON.stringify(body) } : {}),
    })
    return answer.status === 204 ? {} : ((await answer.json()) as Record<string, unknown>)
  }
  /** The engine of each sandbox that runs, as the host started them. */
  const engines = (): string[] =>
    [...server.output().matchAll(/"event":"sandbox.start".*?"engine":"(\w+)"/g)].map(([, name]) => name!)
  const create = () => call('POST', '/v2/sandboxes', { templateID: 'base', timeout: 60 })

  it(
    'holds from the next sandbox on; what runs or is paused stays where it is',
    async () => {
      const first = await create()
      await call('POST', `/sandboxes/${first.sandboxID}/pause`)
      const environment = { ...process.env, ...server.environment }
      const command = [main, 'template', 'base', '--engine', 'gvisor']
      const said = await promisify(execFile)(process.execPath, command, { env: environment })
      expect(said.stdout).toBe('default/base runs on gvisor\n')
      expect(await call('GET', '/templates/base')).toMatchObject({ isolation: 'gvisor' })
      await create()
      await call('POST', `/v2/sandboxes/${first.sandboxID}/connect`, { timeout: 60 })
      await call('PATCH', '/templates/base', { isolation: 'auto' })
      await create()
      await expect.poll(engines).toEqual(['container', 'gvisor', 'container', 'container'])
    },
    FIRST_BOOT_MS,
  )
})
