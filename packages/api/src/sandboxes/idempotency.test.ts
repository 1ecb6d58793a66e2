import { databaseKinds, type TestDatabases } from '@sandbox/store/testing/databases'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'
import { hashBody } from './idempotency.ts'

describe.each(databaseKinds)('Idempotency-Key on %s', (_name, start) => {
  let databases: TestDatabases
  let test: TestApi

  beforeAll(async () => {
    databases = await start()
  }, 180_000)
  afterAll(() => databases.stop())
  beforeEach(async () => {
    test = await startTestApi({ database: await databases.create() })
    return () => test.close()
  })

  const createWith = (key: string, body: object = {}) =>
    test.request('POST', '/v2/sandboxes', { templateID: 'base', ...body }, { 'idempotency-key': key })

  it('repeats the first answer, tokens included, also over a restart, and starts nothing', async () => {
    const first = await createWith('k1', { metadata: { a: '1', b: '2' } })
    expect(first.status).toBe(201)
    const again = await createWith('k1', { metadata: { b: '2', a: '1' } })
    expect([again.status, again.json()]).toEqual([201, first.json()])
    test = await test.restart()
    expect((await createWith('k1', { metadata: { a: '1', b: '2' } })).json()).toEqual(first.json())
    expect(test.host.starts).toHaveLength(1)
    expect(JSON.stringify(await test.store.idempotencyKeys.take(anyEntry('k1')))).not.toContain(
      first.json<{ envdAccessToken: string }>().envdAccessToken,
    )
  })

  const anyEntry = (key: string) => ({
    teamId: test.team.id,
    key,
    requestHash: '',
    owner: 'other',
    sandboxId: 'iother',
    createdAt: Date.now(),
  })

  it('answers 422 to another body', async () => {
    await createWith('k1')
    const answer = await createWith('k1', { timeout: 5 })
    expect(answer.status).toBe(422)
    expect(answer.json()).toMatchObject({ code: 422, error_code: 'idempotency_request_mismatch' })
    expect(answer.headers['should-retry']).toBe('false')
  })

  it('answers 409 while the first still runs', async () => {
    const { promise, resolve } = Promise.withResolvers<void>()
    test.host.beforeStart = () => promise
    const first = createWith('k1')
    await expect.poll(() => test.host.starts.length).toBe(1)
    const answer = await createWith('k1')
    expect(answer.status).toBe(409)
    expect(answer.json()).toMatchObject({ error_code: 'idempotency_in_progress' })
    resolve()
    expect((await first).status).toBe(201)
    expect(test.host.starts).toHaveLength(1)
  })

  it('frees the key after a failure that left nothing', async () => {
    test.host.capacity = 0
    expect((await createWith('k1')).status).toBe(503)
    test.host.capacity = 10
    expect((await createWith('k1')).status).toBe(201)
  })

  it('does not say for ever that a failed start still runs whose key could not be given back', async () => {
    const { idempotencyKeys } = test.store
    const release = idempotencyKeys.release.bind(idempotencyKeys)
    idempotencyKeys.release = () => Promise.reject(new Error('the database is away'))
    test.host.capacity = 0
    expect((await createWith('k1')).json()).toMatchObject({ error_code: 'sandbox_capacity_unavailable' })
    idempotencyKeys.release = release
    test.host.capacity = 10
    expect((await createWith('k1')).json()).toMatchObject({ error_code: 'idempotency_outcome_unknown' })
  })

  it('says that the outcome is unknown when the server was interrupted', async () => {
    const body = { templateID: 'base', timeout: 300 }
    const interrupted = { ...anyEntry('k1'), requestHash: hashBody(body), createdAt: Date.now() - 3_600_000 }
    await test.store.idempotencyKeys.take(interrupted)
    const answer = await createWith('k1')
    expect(answer.status).toBe(409)
    expect(answer.json()).toMatchObject({ error_code: 'idempotency_outcome_unknown' })
    expect(answer.headers['should-retry']).toBe('false')
  })

  it.each(['UPPER', 'a_b', 'x'.repeat(256)])('refuses the key %s', async (key) => {
    expect((await createWith(key)).status).toBe(400)
  })
})
