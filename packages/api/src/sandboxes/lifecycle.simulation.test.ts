import { Code, ConnectError, createClient, createRouterTransport } from '@connectrpc/connect'
import { Directory } from '@sandbox/contract/gen/directory/directory_pb'
import fc from 'fast-check'
import { expect, it } from 'vitest'
import { startTestApi, type TestApi } from '../testing/test-api.ts'

/**
 * Random creates, kills, pauses, resumes, forks, traffic, extensions, ends, broken streams, refusing hosts and
 * restarts, many at once. Whatever the order: afterwards the store, the host and the directory name the same
 * sandboxes in the same states, no snapshot is left over, and the team's places add up.
 */

const LIMIT = 6

const step = fc.record({
  action: fc.constantFrom(
    'create',
    'create',
    'create',
    'kill',
    'pause',
    'pause',
    'connect',
    'connect',
    'wake',
    'fork',
    'extend',
    'end',
    'autoPause',
    'cut',
    'restart',
  ),
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
  (await test.request('POST', '/v2/sandboxes', { templateID: 'base', autoResume: { enabled: true } })).status

/** Traffic that reaches the edge; answers the status that the edge would give. */
async function wake(test: TestApi, sandboxId: string): Promise<number> {
  const transport = createRouterTransport((router) => router.service(Directory, test.api.directory))
  try {
    await createClient(Directory, transport).find({ sandboxId, port: 80 })
    return 200
  } catch (error) {
    const { code } = ConnectError.from(error)
    expect([Code.NotFound, Code.Aborted, Code.ResourceExhausted, Code.Unavailable]).toContain(code)
    return 404
  }
}

async function act(test: TestApi, { action, pick, hostDelayMs, hostFails }: Step): Promise<number> {
  const { host } = test
  const ids = [...host.sandboxes.keys(), ...host.paused.keys()]
  const id = ids[pick % Math.max(ids.length, 1)] ?? 'inothing'
  const behave = async (): Promise<void> => {
    await later(hostDelayMs)
    if (hostFails !== undefined) throw new ConnectError('scripted', hostFails)
  }
  host.beforeStart = behave
  host.beforeCapture = behave
  host.beforeStop = () => later(hostDelayMs)
  const post = async (path: string, body: object) =>
    (await test.request('POST', `/sandboxes/${id}/${path}`, body)).status
  if (action === 'create') return createStatus(test)
  if (action === 'kill') return (await test.request('DELETE', `/sandboxes/${id}`)).status
  if (action === 'pause') return post('pause', {})
  if (action === 'connect') return post('connect', { timeout: 300 })
  if (action === 'fork') return post('fork', { count: 1 + (pick % 2), timeout: 300 })
  if (action === 'extend') return post('timeout', { timeout: 500 })
  if (action === 'wake') return wake(test, id)
  if (action === 'end') host.end(id)
  if (action === 'autoPause') host.pause(id)
  if (action === 'cut') host.cutStreams()
  return 204
}

/** What the API shows of each sandbox, `id state` each. */
async function shown(test: TestApi): Promise<string[]> {
  const listed = await test.request('GET', '/v2/sandboxes?limit=100')
  return listed
    .json<{ sandboxID: string; state: string }[]>()
    .map(({ sandboxID, state }) => `${sandboxID} ${state}`)
    .sort()
}

const onHost = ({ host }: TestApi): string[] =>
  [
    ...[...host.sandboxes.keys()].map((id) => `${id} running`),
    ...[...host.paused.keys()].map((id) => `${id} paused`),
  ].sort()

it('agrees with its host after any history', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 60 }), async (steps) => {
      let test = await startTestApi({ limits: { maxSandboxes: LIMIT, maxHours: 1, maxSnapshots: 20 } })
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
        for (const status of statuses) {
          expect([200, 201, 204, 404, 409, 429, 500, 503]).toContain(status)
        }
        test.host.beforeStart = () => {}
        test.host.beforeCapture = () => {}
        await expect.poll(() => shown(test), { timeout: 3_000 }).toEqual(onHost(test))
        expect(test.host.snapshots.size).toBe(0)

        for (const id of test.host.sandboxes.keys()) await expect.poll(() => wake(test, id)).toBe(200)
        const free = LIMIT - test.host.sandboxes.size
        for (let place = 0; place < free; place += 1) {
          // A host that was unreachable is used again once it has answered.
          await expect.poll(() => createStatus(test)).toBe(201)
        }
        expect(await createStatus(test)).toBe(429)
      } finally {
        await test.close()
      }
    }),
    { numRuns: 40 },
  )
}, 120_000)
