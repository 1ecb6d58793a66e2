import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { gzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestAgent, type TestAgent } from '../testing/test-agent.ts'

let agent: TestAgent

beforeAll(async () => {
  agent = await startTestAgent()
}, 60_000)

afterAll(() => agent.close())

/** Resolves when the answer is there and the whole body was taken. */
async function upload(name: string, body: Uint8Array): Promise<[number, string]> {
  const path = `/files?${new URLSearchParams({ path: join(agent.home, name) })}`
  const headers = { 'Content-Type': 'application/octet-stream', 'Content-Encoding': 'gzip' }
  const outgoing = request(agent.baseUrl + path, { method: 'POST', headers })
  const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>
  outgoing.end(body)
  const [[answer]] = await Promise.all([answered, once(outgoing, 'finish')])
  return [answer.statusCode!, await text(answer)]
}

test('what only claims to be compressed is refused before a file is made', async () => {
  const [status, body] = await upload('claimed', Buffer.from('plain'))
  expect([status, body]).toEqual([400, expect.stringContaining('error decompressing request body')])
  expect(existsSync(join(agent.home, 'claimed'))).toBe(false)
})

test('a compressed body that ends early is an error, and the agent lives on', async () => {
  const half = gzipSync(randomBytes(100_000)).subarray(0, 50_000)
  expect((await upload('half', half))[0]).toBe(500)
  expect((await upload('whole', gzipSync('whole')))[0]).toBe(200)
  expect(readFileSync(join(agent.home, 'whole'), 'utf8')).toBe('whole')
})

test('damage behind the part that was written does not end the agent', async () => {
  const packed = gzipSync(randomBytes(4_000_000))
  packed.fill(0xff, 2_000_000)
  expect((await upload('damaged', packed))[0]).toBe(500)
  mkdirSync(join(agent.home, 'folder'))
  // Refused while the body, of which more is damaged, still comes.
  expect((await upload('folder', packed))[0]).toBe(400)
  expect((await fetch(`${agent.baseUrl}/health`)).status).toBe(204)
})

test('a large compressed body for a directory is refused and taken to its end', async () => {
  mkdirSync(join(agent.home, 'directory'))
  const body = gzipSync(randomBytes(40_000_000), { level: 0 })
  expect((await upload('directory', body))[0]).toBe(400)
})
