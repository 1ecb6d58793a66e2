import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { createGunzip, gzipSync } from 'node:zlib'
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest'
import { createWireSandbox, type Wire, type WireAnswer, type WireSandbox } from './harness/agent-wire.ts'
import { apiRequest } from './harness/clients.ts'
import { agentPid, growthWhile } from './harness/resident-memory.ts'

const MIB = 2 ** 20
const GIB_BLOCKS = 1024
const LONG_MS = 300_000
/**
 * What the agent and the server (API, host and edge in one) may grow by while 1 GiB passes: buffers under way, and
 * what the garbage collector has not yet given back of them.
 */
const AGENT_GROWTH_MIB = 48
const SERVER_GROWTH_MIB = 96

const FORM_BOUNDARY = 'the-boundary'
const BLOCK = Buffer.alloc(MIB, 'one line of a file that is long, but compresses\n')
const PACKED_BLOCK = gzipSync(BLOCK)

let sandbox: WireSandbox
let pids: { agent: number; server: number }

beforeAll(async () => {
  sandbox = await createWireSandbox()
  pids = { agent: agentPid(inject('serverConfig').stateDir, sandbox.sandboxId), server: inject('serverPid') }
  // Code is compiled and buffers are made once.
  for (const wire of [sandbox.http1, sandbox.http2]) {
    await put(wire, 'application/octet-stream', 'warm', blocks(64))
    await digest((await get(wire, 'warm')).body)
  }
})
afterAll(() => apiRequest(`/sandboxes/${sandbox.sandboxId}`, { method: 'DELETE' }))

async function* produce(
  count: number,
  block: Buffer,
  around: { before?: string; after?: string; pauseMs?: number },
) {
  if (around.before) yield Buffer.from(around.before)
  for (let index = 0; index < count; index++) {
    if (around.pauseMs && index % 64 === 63) await delay(around.pauseMs)
    yield block
  }
  if (around.after) yield Buffer.from(around.after)
}

const blocks = (count: number, block = BLOCK, around: Parameters<typeof produce>[2] = {}): Readable =>
  Readable.from(produce(count, block, around), { objectMode: false, highWaterMark: MIB })

/** SHA-256 of a body; pauses after every 64 MiB when told to. */
async function digest(body: AsyncIterable<Buffer>, pauseMs = 0): Promise<string> {
  const hash = createHash('sha256')
  let readBytes = 0
  for await (const chunk of body) {
    hash.update(chunk)
    const passed = Math.floor(readBytes / (64 * MIB))
    readBytes += chunk.length
    if (pauseMs > 0 && Math.floor(readBytes / (64 * MIB)) > passed) await delay(pauseMs)
  }
  return hash.digest('hex')
}

const fileUrl = (name: string): string => `/files?path=/home/user/${name}&username=user`

async function put(
  wire: Wire,
  type: string,
  name: string,
  body: Readable,
  headers: Record<string, string> = {},
): Promise<void> {
  const answer = await wire({
    method: 'POST',
    path: fileUrl(name),
    headers: { 'Content-Type': type, ...headers },
    body,
  })
  const text = Buffer.concat(await answer.body.toArray()).toString()
  expect([answer.status, JSON.parse(text)]).toMatchObject([200, [{ name }]])
}

const get = (wire: Wire, name: string, headers: Record<string, string> = {}): Promise<WireAnswer> =>
  wire({ method: 'GET', path: fileUrl(name), headers })

async function expectFlat(work: () => Promise<unknown>): Promise<void> {
  const growth = await growthWhile(pids, work)
  expect(growth.agent).toBeLessThan(AGENT_GROWTH_MIB)
  expect(growth.server).toBeLessThan(SERVER_GROWTH_MIB)
}

/** Stops the agent for a while, as a disk that does not keep up would. */
async function stall(afterMs: number, forMs: number): Promise<void> {
  await delay(afterMs)
  process.kill(pids.agent, 'SIGSTOP')
  await delay(forMs)
  process.kill(pids.agent, 'SIGCONT')
}

describe('1 GiB of a file passes with flat memory', () => {
  let expected: string
  beforeAll(async () => {
    expected = await digest(blocks(GIB_BLOCKS))
  })

  it('up as raw bytes over HTTP/1.1 to an agent that stalls, down to a fast reader', {
    timeout: LONG_MS,
  }, async () => {
    await expectFlat(() =>
      Promise.all([
        put(sandbox.http1, 'application/octet-stream', 'raw', blocks(GIB_BLOCKS)),
        stall(300, 2_000),
      ]),
    )
    let received = ''
    await expectFlat(async () => {
      received = await digest((await get(sandbox.http1, 'raw')).body)
    })
    expect(received).toBe(expected)
  })

  it('up as a form over h2 from a slow writer, down to a slow reader', { timeout: LONG_MS }, async () => {
    const before = `--${FORM_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n`
    const form = blocks(GIB_BLOCKS, BLOCK, { before, after: `\r\n--${FORM_BOUNDARY}--\r\n`, pauseMs: 100 })
    await expectFlat(() => put(sandbox.http2, `multipart/form-data; boundary=${FORM_BOUNDARY}`, 'form', form))
    let received = ''
    await expectFlat(async () => {
      received = await digest((await get(sandbox.http2, 'form')).body, 200)
    })
    expect(received).toBe(expected)
  })

  it('packed by gzip, both ways', { timeout: LONG_MS }, async () => {
    await expectFlat(() =>
      put(sandbox.http2, 'application/octet-stream', 'packed', blocks(GIB_BLOCKS, PACKED_BLOCK), {
        'Content-Encoding': 'gzip',
      }),
    )
    let received = ''
    await expectFlat(async () => {
      const answer = await get(sandbox.http1, 'packed', { 'Accept-Encoding': 'gzip' })
      expect(answer.headers['content-encoding']).toBe('gzip')
      received = await digest(answer.body.pipe(createGunzip()), 200)
    })
    expect(received).toBe(expected)
  })
})
