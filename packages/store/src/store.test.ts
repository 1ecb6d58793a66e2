import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { NewSandboxRow, Team } from './schema.ts'
import { openStore, type Store, type StoreOptions } from './store.ts'
import { databaseKinds, type TestDatabases } from './testing/databases.ts'

const team = (id: string): Team => ({
  id,
  name: id,
  slug: id,
  maxSandboxes: null,
  maxHours: null,
  isBlocked: 0,
  isBanned: 0,
  createdAt: 1_700_000_000_000,
})

const apiKey = (id: string, teamId: string, hash: string) => ({
  id,
  teamId,
  name: 'laptop',
  hash,
  prefix: 'e2b_',
  valueLength: 40,
  maskedValuePrefix: 'ab',
  maskedValueSuffix: 'cdef',
  createdAt: 1,
  lastUsedAt: null,
})

const template = (id: string, teamId: string, isDefault = 0) => ({
  id,
  teamId,
  isPublic: isDefault,
  isDefault,
  isSnapshot: 0,
  isolation: null,
  createdAt: 1,
  updatedAt: 1,
  spawnCount: 0,
  lastSpawnedAt: null,
})

const build = (id: string, templateId: string, createdAt: number) => ({
  id,
  templateId,
  status: 'ready' as const,
  snapshotId: `snapshot-${id}`,
  envdVersion: '0.6.13',
  cpuCount: 2,
  memoryMib: 512,
  diskMib: 1024,
  reason: null,
  sourceSandboxId: null,
  hostId: null,
  createdAt,
  updatedAt: createdAt,
  finishedAt: createdAt,
})

const sandbox = (id: string, teamId: string, change: Partial<NewSandboxRow> = {}): NewSandboxRow => ({
  id,
  teamId,
  templateId: 'base',
  buildId: 'b1',
  snapshotId: 's1',
  hostId: 'h1',
  alias: null,
  state: 'running',
  pauseMode: null,
  agentUnresponsive: 0,
  startedAt: 1_700_000_000_000,
  endAt: 1_700_000_300_000,
  timeoutMs: 300_000,
  cpuCount: 2,
  memoryMib: 512,
  diskMib: 1024,
  envdVersion: '0.6.13',
  metadata: '{}',
  config: '{}',
  sealedEnv: '',
  ...change,
})

describe.each(databaseKinds)('the store on %s', (_name, start) => {
  let databases: TestDatabases
  let options: StoreOptions
  let store: Store

  beforeAll(async () => {
    databases = await start()
  }, 180_000)
  afterAll(() => databases.stop())
  beforeEach(async () => {
    options = await databases.create()
    store = await openStore(options)
    await store.teams.insert(team('t1'))
    await store.teams.insert(team('t2'))
    return () => store.close()
  })

  it('keeps its rows when it is opened again', async () => {
    const again = await openStore(options)
    expect(await again.teams.find('t1')).toEqual(team('t1'))
    await again.close()
  })

  it('finds the owner of a key by hash, until the key is deleted', async () => {
    await store.apiKeys.insert(apiKey('k1', 't1', 'hash-1'))
    expect(await store.apiKeys.findOwner('hash-1')).toEqual({ keyId: 'k1', team: team('t1') })
    expect(await store.apiKeys.findOwner('hash-2')).toBeUndefined()
    expect(await store.apiKeys.delete('t2', 'k1')).toBe(false)
    expect(await store.apiKeys.delete('t1', 'k1')).toBe(true)
    expect(await store.apiKeys.findOwner('hash-1')).toBeUndefined()
  })

  it('records when a key was last used', async () => {
    await store.apiKeys.insert(apiKey('k1', 't1', 'hash-1'))
    await store.apiKeys.markUsed('k1', 1_700_000_000_123)
    expect((await store.apiKeys.list('t1')).map((key) => key.lastUsedAt)).toEqual([1_700_000_000_123])
  })

  it('tells another process that teams, keys or templates changed', async () => {
    const other = await openStore(options)
    const before = other.version()
    await store.apiKeys.insert(apiKey('k1', 't1', 'hash-1'))
    await expect.poll(() => other.version() !== before).toBe(true)
    const after = other.version()
    expect(other.version()).toBe(after)
    const own = store.version()
    await store.teams.update('t1', { isBlocked: 1 })
    expect(store.version()).not.toBe(own)
    await other.close()
  })

  it('gives the first caller of a secret the word', async () => {
    expect(await store.serverSecrets.getOrCreate('seed', 'one')).toBe('one')
    expect(await store.serverSecrets.getOrCreate('seed', 'two')).toBe('one')
  })

  it('resolves aliases in a namespace and among the platform templates', async () => {
    await store.templates.insert(template('own', 't1'))
    await store.templates.insert(template('base', 't2', 1))
    await store.templates.addAlias('t1', 'mine', 'own', 1)
    await store.templates.addAlias('t2', 'base', 'base', 1)
    expect((await store.templates.findByAlias('t1', 'mine'))?.id).toBe('own')
    expect(await store.templates.findByAlias('t2', 'mine')).toBeUndefined()
    expect((await store.templates.findDefaultByAlias('base'))?.id).toBe('base')
    expect(await store.templates.findDefaultByAlias('mine')).toBeUndefined()
    await expect(store.templates.addAlias('t1', 'mine', 'own', 2)).rejects.toThrow()
  })

  it('moves a tag from build to build and lists templates with the tagged one', async () => {
    await store.templates.insert(template('own', 't1'))
    await store.templates.insert(template('unbuilt', 't1'))
    await store.templates.addAlias('t1', 'mine', 'own', 1)
    await store.templateBuilds.insert(build('b1', 'own', 1))
    await store.templateBuilds.insert(build('b2', 'own', 2))
    const assign = (buildId: string, assignedAt: number, tags = ['default', 'stable']) =>
      store.templateBuilds.assignTags(tags.map((tag) => ({ templateId: 'own', tag, buildId, assignedAt })))
    await assign('b2', 1)
    await assign('b1', 2)
    await expect(assign('unknown', 3)).rejects.toThrow()
    const tagged = { templateId: 'own', buildId: 'b1', assignedAt: 2 }
    expect(await store.templateBuilds.listTags('own')).toEqual(
      ['default', 'stable'].map((tag) => ({ ...tagged, tag })),
    )
    expect((await store.templateBuilds.findByTag('own', 'default'))?.id).toBe('b1')
    expect(await store.templateBuilds.listTaggedSnapshots()).toEqual(['snapshot-b1'])
    const [listed, ...others] = await store.templates.list({ teamId: 't1', limit: 10 })
    expect(others).toEqual([])
    expect(listed).toMatchObject({
      template: { id: 'own' },
      build: { id: 'b1' },
      aliases: ['mine'],
      names: ['t1/mine'],
      buildCount: 2,
    })
  })

  it('pages through builds of one instant, also after the last one shown is gone', async () => {
    const { templates, templateBuilds } = store
    await templates.insert(template('e1', 't1'))
    for (const id of ['b1', 'b2', 'b3']) await templateBuilds.insert(build(id, 'e1', 5))
    await templateBuilds.insert(build('b0', 'e1', 4))
    const ids = async (after?: { createdAt: number; id: string }) =>
      (await templateBuilds.list('e1', 2, after)).map(({ id }) => id)
    expect(await ids()).toEqual(['b3', 'b2'])
    expect(await ids({ createdAt: 5, id: 'b2' })).toEqual(['b1', 'b0'])
    expect(await ids({ createdAt: 5, id: 'b1x' })).toEqual(['b1', 'b0'])
    expect(await ids({ createdAt: 4, id: 'b0' })).toEqual([])
  })

  it('counts spawns without losing one', async () => {
    await store.templates.insert(template('own', 't1'))
    await Promise.all(Array.from({ length: 10 }, (_unused, at) => store.templates.countSpawn('own', at)))
    expect((await store.templates.find('own'))?.spawnCount).toBe(10)
  })

  it('lists sandboxes by team, state, metadata, template and start', async () => {
    const odd = { 'a"b$.c': '10', plain: 'x' }
    await store.sandboxes.insert(sandbox('i1', 't1', { metadata: JSON.stringify(odd), startedAt: 10 }))
    await store.sandboxes.insert(sandbox('i2', 't1', { state: 'paused', startedAt: 20, templateId: 'other' }))
    await store.sandboxes.insert(sandbox('i3', 't2'))
    const all = { teamId: 't1', states: ['running', 'pausing', 'paused'] } as const
    const ids = async (filter: Parameters<Store['sandboxes']['list']>[0]) =>
      (await store.sandboxes.list(filter, { order: 'desc', limit: 10 })).map((row) => row.id)
    expect(await ids(all)).toEqual(['i2', 'i1'])
    expect(await ids({ ...all, states: ['running'] })).toEqual(['i1'])
    expect(await ids({ ...all, metadata: odd })).toEqual(['i1'])
    expect(await ids({ ...all, metadata: { ...odd, plain: 'y' } })).toEqual([])
    expect(await ids({ ...all, templateId: 'other' })).toEqual(['i2'])
    expect(await ids({ ...all, startedAfter: 20 })).toEqual(['i2'])
    expect(await store.sandboxes.count(all)).toBe(2)
    expect((await store.sandboxes.listRunning('h1')).map((row) => row.id).sort()).toEqual(['i1', 'i3'])
  })

  it('pages through sandboxes of the same instant in both orders', async () => {
    for (const id of ['i1', 'i2', 'i3', 'i4', 'i5']) await store.sandboxes.insert(sandbox(id, 't1'))
    for (const order of ['asc', 'desc'] as const) {
      const seen: string[] = []
      let after: { startedAt: number; id: string } | undefined
      for (let page = 0; page < 3; page += 1) {
        const rows = await store.sandboxes.list(
          { teamId: 't1', states: ['running'] },
          { order, limit: 2, ...(after ? { after } : {}) },
        )
        seen.push(...rows.map((row) => row.id))
        after = rows.at(-1)
      }
      const expected = ['i1', 'i2', 'i3', 'i4', 'i5']
      expect(seen).toEqual(order === 'asc' ? expected : expected.reverse())
    }
  })

  it('never shows a sandbox to another team', async () => {
    await store.sandboxes.insert(sandbox('i1', 't1'))
    expect(await store.sandboxes.find('t2', 'i1')).toBeUndefined()
    expect((await store.sandboxes.find('t1', 'i1'))?.id).toBe('i1')
    expect(await store.sandboxes.delete('i1')).toBe(true)
    expect(await store.sandboxes.delete('i1')).toBe(false)
  })

  it('gives an idempotency key to one of many and completes it with the sandbox', async () => {
    const entry = { teamId: 't1', key: 'k', requestHash: 'h', owner: 'run', sandboxId: 'i1', createdAt: 1 }
    const taken = await Promise.all(Array.from({ length: 5 }, () => store.idempotencyKeys.take(entry)))
    expect(taken.filter((holder) => holder === undefined)).toHaveLength(1)
    await store.sandboxes.insert(sandbox('i1', 't1'), { key: 'k', answer: '{"a":1}' })
    await store.idempotencyKeys.release('t1', 'k', 'other run')
    expect(await store.idempotencyKeys.take(entry)).toMatchObject({ state: 'done', answer: '{"a":1}' })
  })

  it('frees a key whose request changed nothing', async () => {
    const entry = { teamId: 't1', key: 'k', requestHash: 'h', owner: 'run', sandboxId: 'i1', createdAt: 1 }
    await store.idempotencyKeys.take(entry)
    await store.idempotencyKeys.release('t1', 'k', 'other run')
    expect(await store.idempotencyKeys.take(entry)).toMatchObject({ state: 'in_progress' })
    await store.idempotencyKeys.release('t1', 'k', 'run')
    expect(await store.idempotencyKeys.take(entry)).toBeUndefined()
  })

  it('has one holder of a key at a time, however often it is taken and given back', async () => {
    const entry = { teamId: 't1', key: 'k', requestHash: 'h', owner: 'run', sandboxId: 'i1', createdAt: 1 }
    let holders = 0
    let most = 0
    const takeAndGiveBack = async (): Promise<void> => {
      for (let round = 0; round < 30; round += 1) {
        if (await store.idempotencyKeys.take(entry)) continue
        holders += 1
        most = Math.max(most, holders)
        await new Promise((resolve) => setImmediate(resolve))
        holders -= 1
        await store.idempotencyKeys.release('t1', 'k', 'run')
      }
    }
    await Promise.all(Array.from({ length: 5 }, takeAndGiveBack))
    expect(most).toBe(1)
  })
})
