import { Code, ConnectError } from '@connectrpc/connect'
import { databaseKinds, type TestDatabases } from '@sandbox/store/testing/databases'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

interface Snapshot {
  snapshotID: string
  names: string[]
}

describe.each(databaseKinds)('captures on %s', (_name, start) => {
  let databases: TestDatabases
  let test: TestApi
  beforeAll(async () => {
    databases = await start()
  })
  afterAll(() => databases.stop())
  beforeEach(async () => {
    test = await startTestApi({ database: await databases.create() })
  })
  afterEach(() => test.close())

  const create = (templateID: string, body: object = {}) =>
    test.request('POST', '/v2/sandboxes', { templateID, ...body })
  const createSandbox = async (body: object = {}): Promise<string> =>
    (await create('base', body)).json<{ sandboxID: string }>().sandboxID
  const fork = (id: string, body?: object) => test.request('POST', `/sandboxes/${id}/fork`, body)
  const snapshot = (id: string, body: object = {}) => test.request('POST', `/sandboxes/${id}/snapshots`, body)
  const list = async (query = '') => (await test.request('GET', `/snapshots${query}`)).json<Snapshot[]>()
  const remove = (id: string) => test.request('DELETE', `/templates/${encodeURIComponent(id)}`)
  const detail = async (id: string) => (await test.request('GET', `/sandboxes/${id}`)).json()

  describe('fork', () => {
    it('starts copies with ids, tokens and times of their own and everything else of the source', async () => {
      const network = { allowPublicTraffic: false, denyOut: ['1.2.3.4'] }
      const id = await createSandbox({ metadata: { a: 'b' }, envVars: { K: 'v' }, network, autoPause: true })
      const before = await detail(id)
      const answer = await fork(id, { count: 2, timeout: 60 })
      expect(answer.status).toBe(201)
      const forks = answer.json<{ sandbox: { sandboxID: string; envdAccessToken: string } }[]>()
      expect(new Set([id, ...forks.map(({ sandbox }) => sandbox.sandboxID)]).size).toBe(3)
      for (const { sandbox } of forks) {
        expect(sandbox).toMatchObject({ trafficAccessToken: expect.any(String), alias: 'base' })
        expect(sandbox.envdAccessToken).not.toBe(before.envdAccessToken)
        const shown = await detail(sandbox.sandboxID)
        expect(shown).toMatchObject({ metadata: { a: 'b' }, network, lifecycle: { onTimeout: 'pause' } })
        expect(Date.parse(String(shown.endAt)) - Date.parse(String(shown.startedAt))).toBe(60_000)
      }
      expect(test.host.starts.slice(1).map(({ config }) => config?.envVars)).toEqual([{ K: 'v' }, { K: 'v' }])
      expect(await detail(id)).toMatchObject({ state: 'running', endAt: before.endAt })
      expect(test.host.snapshots.size).toBe(0)
      expect(await test.store.looseSnapshots.listAbandoned(test.host.id, '', Date.now())).toEqual([])
    })

    it('makes one for 15 seconds by default', async () => {
      const [only, ...more] = (await fork(await createSandbox())).json<{ sandbox: { sandboxID: string } }[]>()
      const { startedAt, endAt } = await detail(only!.sandbox.sandboxID)
      expect(Date.parse(String(endAt)) - Date.parse(String(startedAt))).toBe(15_000)
      expect(more).toEqual([])
    })

    it.each([{ count: 0 }, { count: 101 }, { count: 20 }, { timeout: 0 }, { timeout: 3601 }])(
      'refuses %j',
      async (body) => {
        expect((await fork(await createSandbox(), body)).status).toBe(400)
      },
    )

    it('answers each outcome by itself', async () => {
      const id = await createSandbox()
      let starts = 0
      test.host.beforeStart = () => {
        starts += 1
        if (starts === 2) throw new ConnectError('full', Code.ResourceExhausted)
      }
      const outcomes = (await fork(id, { count: 2 })).json<{ error?: { code: number } }[]>()
      expect(outcomes.map(({ error }) => error?.code ?? 201).sort()).toEqual([201, 503])
      test.host.beforeStart = () => {}
      await test.store.teams.update(test.team.id, { maxSandboxes: 3 })
      const limited = await fork(id, { count: 2 })
      expect(limited.status).toBe(201)
      expect(
        limited
          .json<{ error?: { code: number } }[]>()
          .map(({ error }) => error?.code ?? 201)
          .sort(),
      ).toEqual([201, 429])
    })

    it('refuses paused and unknown sources, and one that is captured already', async () => {
      const id = await createSandbox()
      const gate = Promise.withResolvers<void>()
      test.host.beforeCapture = () => gate.promise
      const first = fork(id)
      await expect.poll(() => test.host.calls.at(-1)).toBe(`snapshot ${id}`)
      const second = await fork(id)
      expect([second.status, second.headers['should-retry']]).toEqual([503, 'true'])
      expect((await test.request('POST', `/sandboxes/${id}/pause`)).status).toBe(503)
      gate.resolve()
      expect((await first).status).toBe(201)
      await test.request('POST', `/sandboxes/${id}/pause`)
      expect((await fork(id)).json()).toMatchObject({ code: 409 })
      expect((await fork('inothing')).json()).toMatchObject({ code: 404 })
      const { key } = await test.otherTeam()
      expect((await test.request('POST', `/sandboxes/${id}/fork`, {}, { 'x-api-key': key })).status).toBe(404)
    })
  })

  describe('snapshots', () => {
    it('without a name is found by its id, starts sandboxes, and cannot go while they are there', async () => {
      const id = await createSandbox()
      const made = await snapshot(id)
      expect(made.status).toBe(201)
      const { snapshotID, names } = made.json<Snapshot>()
      expect(snapshotID).toMatch(/^[a-z0-9]{20}:default$/)
      expect(names).toEqual([])
      expect(await detail(id)).toMatchObject({ state: 'running' })
      expect(await list()).toEqual([{ snapshotID, names }])

      const user = (await create(snapshotID)).json<{ sandboxID: string }>().sandboxID
      expect(test.host.snapshots.has(test.host.starts.at(-1)!.snapshotId)).toBe(true)
      expect((await remove(snapshotID)).json()).toMatchObject({ code: 400 })
      await test.request('POST', `/sandboxes/${user}/pause`)
      expect((await remove(snapshotID)).json()).toMatchObject({ code: 400 })
      await test.request('DELETE', `/sandboxes/${user}`)
      const removed = await remove(snapshotID)
      expect([removed.status, removed.text]).toEqual([204, ''])
      expect((await remove(snapshotID)).json()).toMatchObject({ code: 404 })
      expect(test.host.snapshots.size).toBe(0)
      expect(await list()).toEqual([])
      expect((await create(snapshotID)).status).toBe(404)
    })

    it('is deleted once, however many ask at once', async () => {
      const { snapshotID } = (await snapshot(await createSandbox())).json<Snapshot>()
      const removed = await Promise.all([1, 2, 3].map(() => remove(snapshotID)))
      expect(removed.map(({ status }) => status).sort()).toEqual([204, 404, 404])
      expect(test.host.snapshots.size).toBe(0)
      expect(await test.store.looseSnapshots.listAbandoned(test.host.id, '', Date.now())).toEqual([])
    })

    it('leaves nothing when it was written but the answer was lost', async () => {
      const id = await createSandbox()
      const { snapshots } = test.store
      const insert = snapshots.insert.bind(snapshots)
      snapshots.insert = async (made) => {
        await insert(made)
        throw new Error('the connection broke')
      }
      expect((await snapshot(id, { name: 'state' })).status).toBe(500)
      expect(test.host.snapshots.size).toBe(0)
      expect(await list()).toEqual([])
      expect(await test.store.looseSnapshots.listAbandoned(test.host.id, '', Date.now())).toEqual([])
      snapshots.insert = insert
      expect((await snapshot(id, { name: 'state' })).status).toBe(201)
    })

    it('are limited per team, also those that are being made', async () => {
      test = await test.restart({ limits: { maxSandboxes: 20, maxHours: 1, maxSnapshots: 2 } })
      const ids = [await createSandbox(), await createSandbox(), await createSandbox()]
      expect((await snapshot(ids[2]!)).status).toBe(201)
      const made = await Promise.all(ids.slice(0, 2).map((id) => snapshot(id)))
      expect(made.map(({ status }) => status).sort()).toEqual([201, 429])
      expect(made.find(({ status }) => status === 429)!.json()).toEqual({
        code: 429,
        message: expect.stringContaining('maximum number of snapshots (2)'),
        error_code: 'snapshot_limit_reached',
      })
      expect((await fork(ids[0]!)).status).toBe(201)
      expect((await remove((await list())[0]!.snapshotID)).status).toBe(204)
      expect((await snapshot(ids[0]!)).status).toBe(201)
      expect(test.host.snapshots.size).toBe(2)
    })

    it('with a name collects tags, and is not among the templates', async () => {
      const id = await createSandbox()
      const first = (await snapshot(id, { name: 'State' })).json<Snapshot>()
      expect(first).toEqual({ snapshotID: 'test/state:default', names: ['test/state'] })
      const second = (await snapshot(id, { name: 'test/state:v2', memory: false })).json<Snapshot>()
      expect(second).toEqual({ snapshotID: 'test/state:v2', names: ['test/state'] })
      // The tag that was moved last stands for all of them.
      for (const query of ['', '?name=state', '?name=test%2Fstate%3Av2', `?sandboxID=${id}`]) {
        expect(await list(query), query).toEqual([second])
      }
      expect(await list('?name=state%3Adefault')).toEqual([first])
      expect(await list('?name=unknown')).toEqual([])
      expect(await list('?sandboxID=iother')).toEqual([])
      expect((await test.request('GET', '/templates')).json()).toEqual([])
      expect((await create('state')).status).toBe(201)
      expect((await create('test/state:v2')).status).toBe(201)
    })

    it('lists what one sandbox gave to a name, whatever others gave to it later', async () => {
      const ids = [await createSandbox(), await createSandbox()]
      const first = (await snapshot(ids[0]!, { name: 'state:a' })).json<Snapshot>()
      const second = (await snapshot(ids[1]!, { name: 'state:b' })).json<Snapshot>()
      expect(await list()).toEqual([second])
      expect(await list(`?sandboxID=${ids[0]}`)).toEqual([first])
    })

    it('at once under one new name become one template, and none is left without a tag', async () => {
      const ids = await Promise.all([1, 2, 3, 4].map(() => createSandbox()))
      const made = await Promise.all(ids.map((id) => snapshot(id, { name: 'state' })))
      expect(made.map(({ status }) => status)).toEqual([201, 201, 201, 201])
      expect(await list()).toHaveLength(1)
      expect(test.host.snapshots.size).toBe(1)
      expect(await test.store.snapshots.count(test.team.id)).toBe(1)
    })

    it('a tag that moves on takes the unused snapshot behind it away', async () => {
      const id = await createSandbox()
      await snapshot(id, { name: 'state' })
      await snapshot(id, { name: 'state' })
      expect(await list()).toHaveLength(1)
      expect(test.host.snapshots.size).toBe(1)
    })

    it('what a tag pointed at before goes once its last sandbox is gone, and counts until then', async () => {
      test = await test.restart({ limits: { maxSandboxes: 20, maxHours: 1, maxSnapshots: 2 } })
      const id = await createSandbox()
      await snapshot(id, { name: 'state' })
      const user = (await create('state')).json<{ sandboxID: string }>().sandboxID
      expect((await snapshot(id, { name: 'state' })).status).toBe(201)
      expect(test.host.snapshots.size).toBe(2)
      expect((await snapshot(id, { name: 'state' })).status).toBe(429)
      await test.request('DELETE', `/sandboxes/${user}`)
      expect((await snapshot(id, { name: 'state' })).status).toBe(201)
      expect(test.host.snapshots.size).toBe(1)
      await test.request('POST', '/templates/tags', { target: 'state', tags: ['old'] })
      await snapshot(id, { name: 'state' })
      expect(test.host.snapshots.size).toBe(2)
      await test.request('DELETE', '/templates/tags', { name: 'state', tags: ['old'] })
      expect((await snapshot(id)).status).toBe(201)
      expect(test.host.snapshots.size).toBe(2)
    })

    it('starts from the new snapshot where the tag moves on in the moment of a create', async () => {
      const id = await createSandbox()
      await snapshot(id, { name: 'state' })
      let starts = 0
      test.host.beforeStart = async ({ snapshotId }) => {
        starts += 1
        if (starts === 1) await snapshot(id, { name: 'state' })
        if (!test.host.snapshots.has(snapshotId)) throw new ConnectError('no such snapshot', Code.NotFound)
      }
      expect((await create('state', { metadata: { a: 'b' } })).status).toBe(201)
      expect(starts).toBe(2)
      test.host.snapshots.clear()
      expect((await create('state')).json()).toMatchObject({ error_code: 'sandbox_no_compatible_node' })
      expect(starts).toBe(3)
    })

    it('deletes one tag and leaves the others', async () => {
      const id = await createSandbox()
      for (const tag of ['a', 'b']) await snapshot(id, { name: `state:${tag}` })
      expect((await remove('state:c')).status).toBe(404)
      expect((await remove('test/state:a')).status).toBe(204)
      expect(await list()).toMatchObject([{ snapshotID: 'test/state:b' }])
      expect(test.host.snapshots.size).toBe(1)
      expect((await remove('state:b')).status).toBe(204)
      expect(await list()).toEqual([])
    })

    it('pages', async () => {
      const id = await createSandbox()
      const made: string[] = []
      for (let n = 0; n < 3; n += 1) made.push((await snapshot(id)).json<Snapshot>().snapshotID)
      const seen: string[] = []
      for (let token = ''; ; ) {
        const page = await test.request('GET', `/snapshots?limit=1${token && `&nextToken=${token}`}`)
        seen.push(...page.json<Snapshot[]>().map(({ snapshotID }) => snapshotID))
        token = String(page.headers['x-next-token'] ?? '')
        if (!token) break
      }
      expect([...seen].sort()).toEqual([...made].sort())
      expect((await test.request('GET', '/snapshots?nextToken=x')).status).toBe(400)
    })

    it('refuses foreign names and sandboxes', async () => {
      const id = await createSandbox()
      expect((await snapshot(id, { name: 'platform/base' })).status).toBe(400)
      expect((await snapshot(id, { name: 'no good' })).status).toBe(400)
      expect((await snapshot('inothing')).status).toBe(404)
      const { snapshotID } = (await snapshot(id)).json<Snapshot>()
      const headers = { 'x-api-key': (await test.otherTeam()).key }
      const foreign = await test.request('DELETE', `/templates/${snapshotID}`, undefined, headers)
      expect(foreign.status).toBe(404)
      expect((await test.request('GET', '/snapshots', undefined, headers)).json()).toEqual([])
      expect((await remove('base')).status).toBe(404)
      await test.request('POST', `/sandboxes/${id}/pause`)
      expect((await snapshot(id)).json()).toMatchObject({
        code: 404,
        message: expect.stringContaining('paused'),
      })
    })

    it('what an interrupted server left behind is deleted at the next start, and nothing else', async () => {
      const id = await createSandbox()
      await snapshot(id, { name: 'kept' })
      const abandoned = {
        snapshotId: 'half-made',
        hostId: test.host.id,
        owner: 'before',
        createdAt: Date.now(),
      }
      await test.store.looseSnapshots.insert(abandoned)
      test.host.snapshots.add('half-made')
      test = await test.restart()
      expect(test.host.snapshots.size).toBe(1)
      expect(await test.store.looseSnapshots.listAbandoned(test.host.id, '', Date.now())).toEqual([])
      expect((await create('kept')).status).toBe(201)
    })

    it.each(['kill', 'end'])(
      'of a sandbox that meets its %s meanwhile is 404, not a failure',
      async (how) => {
        const id = await createSandbox()
        const gate = Promise.withResolvers<void>()
        test.host.beforeCapture = async () => {
          await gate.promise
          throw new ConnectError('killed while it was kept', Code.Internal)
        }
        const made = snapshot(id)
        await expect.poll(() => test.host.calls.at(-1)).toBe(`snapshot ${id}`)
        const killed = how === 'kill' ? test.request('DELETE', `/sandboxes/${id}`) : test.host.end(id)
        await expect.poll(async () => (await test.request('GET', `/sandboxes/${id}`)).status).toBe(404)
        gate.resolve()
        expect((await made).json()).toMatchObject({ code: 404 })
        await killed
        expect(await list()).toEqual([])
        expect(test.host.snapshots.size).toBe(0)
      },
    )

    it('a host that cannot capture leaves the sandbox running and nothing behind', async () => {
      const id = await createSandbox()
      test.host.beforeCapture = () => {
        throw new ConnectError('busy', Code.Unavailable)
      }
      expect((await snapshot(id)).status).toBe(503)
      expect(await detail(id)).toMatchObject({ state: 'running' })
      expect(await list()).toEqual([])
      test.host.beforeCapture = () => {}
      expect((await snapshot(id)).status).toBe(201)
    })
  })
})
