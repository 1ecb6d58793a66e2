import { connect, type Socket } from 'node:net'
import { pino } from 'pino'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { EventListener } from './event-listener.ts'
import { parseLogLines } from './log-line.ts'
import { type LogBatch, LogRelay } from './log-relay.ts'

const PORT = 20_000 + (process.pid % 10_000)
const url = (path: string): string => `http://127.0.0.1:${PORT}${path}`
const limits = {
  ofSandbox: { perSecond: 10, burst: 20 },
  ofAll: { perSecond: 1_000, burst: 1_000 },
  waitingCharacters: 10_000,
}

let occupant: string | undefined
let nowMs = 0
let relay: LogRelay
let listener: EventListener
const abort = new AbortController()

beforeEach(async () => {
  occupant = 'ia'
  nowMs = 0
  relay = new LogRelay(limits, () => nowMs)
  listener = new EventListener({
    address: '127.0.0.1',
    port: PORT,
    sandboxAt: (address) => (address === '127.0.0.1' ? occupant : undefined),
    relay,
    log: pino({ level: 'silent' }),
    maxConnectionsPerSandbox: 2,
    requestTimeoutMs: 300,
  })
  await listener.start()
})
afterEach(() => listener.stop())

const post = (body: unknown, path = '/logs'): Promise<Response> =>
  fetch(url(path), { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body) })

const waiting = async (): Promise<LogBatch[]> => {
  const batches: LogBatch[] = []
  const collected = (async () => {
    for await (const batch of relay.collect(abort.signal)) batches.push(batch)
  })()
  await new Promise((resolve) => setTimeout(resolve, 20))
  relay.close()
  await collected
  return batches
}

test('tells a guest who it is, and takes its lines under the name that its address has', async () => {
  expect(await (await fetch(url('/me'))).json()).toEqual({ sandboxID: 'ia' })
  const at = new Date(Date.now() - 5_000).toISOString()
  const one = { message: 'one', level: 'warn', timestamp: at, instanceID: 'iother', pid: 7, tag: 't' }
  expect((await post(one)).status).toBe(200)
  expect((await post([{ message: 'two' }, { message: 'three', level: 'fatal' }], '/')).status).toBe(200)
  expect(await waiting()).toEqual([
    {
      sandboxId: 'ia',
      lines: [{ atMs: Date.parse(at), level: 'warn', message: 'one', fields: { pid: '7', tag: 't' } }],
    },
    {
      sandboxId: 'ia',
      lines: [
        { atMs: expect.any(Number), level: 'info', message: 'two', fields: {} },
        { atMs: expect.any(Number), level: 'error', message: 'three', fields: {} },
      ],
    },
  ])
})

test('refuses what is no log, too long, elsewhere, or said by nobody', async () => {
  for (const body of ['', 'x', '1', '["a"]', '[null]', '{"a"', '['.repeat(60_000)]) {
    expect((await post(body)).status).toBe(400)
  }
  expect((await post(Array.from({ length: 501 }, () => ({})))).status).toBe(400)
  const long = await post({ message: 'x'.repeat(70_000) }).catch(() => undefined)
  expect(long?.status ?? 413).toBe(413)
  expect((await fetch(url('/other'))).status).toBe(404)
  expect((await fetch(url('/logs'))).status).toBe(405)
  occupant = undefined
  await expect(fetch(url('/me'))).rejects.toThrow()
  expect(await waiting()).toEqual([])
})

test('bounds the lines a second of a sandbox, and takes them again later', async () => {
  const ten = Array.from({ length: 10 }, (_unused, n) => ({ message: `${n}` }))
  const statuses: number[] = []
  for (let n = 0; n < 4; n++) statuses.push((await post(ten)).status)
  expect(statuses).toEqual([200, 200, 429, 429])
  occupant = 'ib'
  expect((await post(ten)).status).toBe(200)
  occupant = 'ia'
  nowMs += 1_000
  expect((await post(ten)).status).toBe(200)
  expect((await post(ten)).status).toBe(429)
})

test('keeps the newest within a bound while nobody collects, and gives each batch to one collector', async () => {
  const line = (message: string): LogBatch => ({
    sandboxId: 'ia',
    lines: [{ atMs: 0, level: 'info', message, fields: { a: 'b'.repeat(900) } }],
  })
  for (let n = 0; n < 15; n++) expect(relay.offer(line(`${n}`))).toBe(true)
  const taken: string[][] = [[], []]
  const collectors = taken.map(async (messages) => {
    for await (const { lines } of relay.collect(abort.signal)) {
      messages.push(lines[0]?.message ?? '')
      await new Promise((resolve) => setImmediate(resolve))
    }
  })
  await new Promise((resolve) => setTimeout(resolve, 50))
  relay.close()
  await Promise.all(collectors)
  const all = taken.flat().map(Number)
  expect(all.sort((a, b) => a - b)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
})

test('a guest holds few connections, and none for long', async () => {
  const open = (): Promise<Socket> =>
    new Promise((resolve) => {
      const socket = connect(PORT, '127.0.0.1', () => resolve(socket))
      socket.on('error', () => resolve(socket))
    })
  const closed = (socket: Socket): Promise<void> =>
    new Promise((resolve) => {
      if (socket.destroyed) resolve()
      socket.once('close', () => resolve())
      socket.resume()
    })
  const first = await open()
  first.write('POST /logs HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{')
  const second = await open()
  const third = await open()
  await closed(third)
  expect([first.destroyed, second.destroyed]).toEqual([false, false])
  const startMs = performance.now()
  await Promise.all([closed(first), closed(second)])
  expect(performance.now() - startMs).toBeLessThan(3_000)
  expect((await fetch(url('/me'))).status).toBe(200)
})

test('a line is cut to a bounded size, its time is not in the future, and odd fields do no harm', () => {
  const now = Date.parse('2026-01-02T00:00:00Z')
  const entry: Record<string, unknown> = {
    message: 'm'.repeat(10_000),
    level: 'LOUD',
    timestamp: '2030-01-01T00:00:00Z',
    big: 'x'.repeat(10_000),
    ['k'.repeat(100)]: 'no',
    object: { a: [1] },
  }
  for (let n = 0; n < 100; n++) entry[`f${n}`] = n
  const text = JSON.stringify(entry).replace('"object"', '"__proto__":{"polluted":"x"},"object"')
  const [line] = parseLogLines(text, now)
  expect([line?.atMs, line?.level, line?.message.length]).toEqual([now, 'info', 4_096])
  const size = Object.entries(line?.fields ?? {}).reduce(
    (sum, [key, value]) => sum + key.length + value.length,
    0,
  )
  expect(size).toBeLessThanOrEqual(4_096)
  expect(Object.keys(line?.fields ?? {}).length).toBeLessThanOrEqual(32)
  expect('polluted' in {}).toBe(false)
  expect(parseLogLines('{"timestamp":"2025-12-31T23:59:59Z"}', now)[0]?.atMs).toBe(now)
  expect(parseLogLines('{"timestamp":"2026-01-01T23:59:59Z"}', now)[0]?.atMs).toBe(now - 1_000)
})
