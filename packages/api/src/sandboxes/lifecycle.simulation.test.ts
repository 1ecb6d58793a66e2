import { Code, ConnectError } from '@connectrpc/connect'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

/**
 * Random creates, kills, extensions, ends, broken streams, refusing hosts and restarts, many at once. Whatever the
 * order: afterwards the store, the host and the directory name the same sandboxes, and the team's places add up.
 */

const LIMIT = 6

const step = fc.record({
  action: fc.constantFrom('create', 'create', 'create', 'kill', 'extend', 'end', 'cut', 'restart'),
  pick: fc.nat(),
  hostDelayMs: fc.nat({ max: 4 }),
  hostFails: fc.constantFrom(
    undefined,
    undefined,
    undefined,
    Code.ResourceExhausted,
    Code.Unavailable,
    Code.Internal,
  ),
  waits: fc.boolean(),
})
type Step = typeof step extends fc.Arbitrary<infer T> ? T : never

const later = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

const createStatus = async (test: TestApi): Promise<number> =>
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base' })).status

async function act(test: TestApi, { action, pick, hostDelayMs, hostFails }: Step): Promise<number> {
  const ids = [...test.host.sandboxes.keys()]
  const id = ids[pick % Math.max(ids.length, 1)] ?? 'inothing'
  const behave = async (): Promise<void> => {
    await later(hostDelayMs)
    if (hostFails !== undefined) throw new ConnectError('scripted', hostFails)
  }
  test.host.beforeStart = behave
  test.host.beforeStop = () => later(hostDelayMs)
  if (action === 'create') return createStatus(test)
  if (action === 'kill') return (await test.request('DELETE', `/sandboxes/${id}`)).status
  if (action === 'extend')
    return (await test.request('POST', `/sandboxes/${id}/timeout`, { timeout: 500 })).status
  if (action === 'end') test.host.end(id)
  if (action === 'cut') test.host.cutStreams()
  return 204
}

async function findable(test: TestApi): Promise<string[]> {
  const ids = [...test.host.sandboxes.keys()]
  const found = await Promise.all(
    ids.map(async (id) => (await test.request('GET', `/sandboxes/${id}`)).status === 200),
  )
  return ids.filter((_id, index) => found[index]).sort()
}

it('agrees with its host after any history', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      let test = await startTestApi({ limits: { maxSandboxes: LIMIT, maxHours: 1 } })
      try {
        let pending: Promise<number>[] = []
        for (const next of steps) {
          if (next.action === 'restart') {
            await Promise.all(pending)
            pending = []
            test = await test.restart()
            continue
          }
          const done = act(test, next)
          if (next.waits) await done
          else pending.push(done)
          expect(test.host.sandboxes.size).toBeLessThanOrEqual(LIMIT)
        }
        const statuses = await Promise.all(pending)
        for (const status of statuses) expect([200, 201, 204, 404, 429, 500, 503]).toContain(status)

        const rows = async () => (await test.store.sandboxes.listRunning()).map((row) => row.id).sort()
        const onHost = () => [...test.host.sandboxes.keys()].sort()
        await expect
          .poll(async () => JSON.stringify(await rows()) === JSON.stringify(onHost()), { timeout: 3_000 })
          .toBe(true)
        expect(await findable(test)).toEqual(onHost())
        test.host.beforeStart = () => {}
        const free = LIMIT - onHost().length
        for (let place = 0; place < free; place += 1) {
          // A host that was unreachable is used again once it has answered.
          await expect.poll(() => createStatus(test)).toBe(201)
        }
        expect(await createStatus(test)).toBe(429)
      } finally {
        await test.close()
      }
    }),
    { numRuns: 25 },
  )
}, 60_000)
