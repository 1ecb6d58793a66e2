import { once } from 'node:events'
import { statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs'
import { get, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { buffer, json } from 'node:stream/consumers'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestAgent, type TestAgent } from '../testing/test-agent.ts'

let agent: TestAgent

beforeAll(async () => {
  agent = await startTestAgent()
  writeFileSync(join(agent.home, 'ten'), '0123456789')
  writeFileSync(join(agent.home, 'empty'), '')
}, 60_000)

afterAll(() => agent.close())

/** Without the Accept-Encoding that fetch adds by itself. */
async function download(path: string, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  const outgoing = get(`${agent.baseUrl}/files?${new URLSearchParams({ path })}`, { headers })
  const [answer] = (await once(outgoing, 'response')) as [IncomingMessage]
  return answer
}

async function ask(
  name: string,
  headers: Record<string, string>,
): Promise<[number, string, string | undefined]> {
  const answer = await download(join(agent.home, name), headers)
  return [answer.statusCode!, (await buffer(answer)).toString(), answer.headers['content-range']]
}

test.each([
  ['ten', 'bytes=2-4', 206, '234', 'bytes 2-4/10'],
  ['ten', 'bytes=8-99', 206, '89', 'bytes 8-9/10'],
  ['ten', 'bytes=-3', 206, '789', 'bytes 7-9/10'],
  ['ten', 'bytes= 1-1 ,', 206, '1', 'bytes 1-1/10'],
  ['ten', 'bytes=50-60,0-0', 206, '0', 'bytes 0-0/10'],
  ['ten', 'bytes=0-1,3-4', 200, '0123456789', undefined],
  ['ten', 'bytes=20-', 416, 'invalid range: failed to overlap\n', 'bytes */10'],
  ['ten', 'bytes=5-2', 416, 'invalid range\n', undefined],
  ['ten', 'lines=1-2', 416, 'invalid range\n', undefined],
  ['empty', 'bytes=0-', 200, '', undefined],
])('%s, Range %s: %i', async (name, range, ...expected) => {
  expect(await ask(name, { Range: range })).toEqual(expected)
})

test('conditions are answered by the date, since files have no entity tag', async () => {
  const modified = new Date(statSync(join(agent.home, 'ten')).mtime)
  const earlier = new Date(modified.getTime() - 86_400_000).toUTCString()
  const later = new Date(modified.getTime() + 86_400_000).toUTCString()
  const statusOf = async (headers: Record<string, string>): Promise<number> => (await ask('ten', headers))[0]
  expect(await statusOf({ 'If-Modified-Since': later })).toBe(304)
  expect(await statusOf({ 'If-Modified-Since': earlier })).toBe(200)
  expect(await statusOf({ 'If-None-Match': '"x"', 'If-Modified-Since': later })).toBe(200)
  expect(await statusOf({ 'If-Unmodified-Since': later })).toBe(200)
  expect(await statusOf({ 'If-Unmodified-Since': earlier })).toBe(412)
  expect(await statusOf({ 'If-Match': '*', 'If-Unmodified-Since': earlier })).toBe(200)
  expect(await statusOf({ 'If-Match': '"x"' })).toBe(412)
})

test('a file that becomes shorter while it is read breaks the answer off', async () => {
  const path = join(agent.home, 'shrinking')
  writeFileSync(path, Buffer.alloc(32 * 1024 * 1024))
  const answer = await download(path)
  truncateSync(path, 1)
  await expect(buffer(answer)).rejects.toThrow('aborted')
})

test.each(['/proc/self/status', '/sys/kernel/mm/transparent_hugepage/enabled'])(
  '%s is whole, whatever size it tells',
  async (path) => {
    const answer = await download(path)
    const body = await buffer(answer)
    expect(body.length).toBeGreaterThan(0)
    expect(Number(answer.headers['content-length'])).toBe(body.length)
  },
)

test('a file of the kernel that is longer than what is read ahead comes whole', async () => {
  const answer = await download('/proc/kallsyms')
  expect(answer.headers['content-length']).toBeUndefined()
  const body = (await buffer(answer)).toString()
  expect(body.length).toBeGreaterThan(64 * 1024)
  expect(body.endsWith('\n')).toBe(true)
})

test.each([
  ["it's*a{1}%.txt", "filename=it's*a{1}%.txt"],
  ['two words "x"', 'filename="two words \\"x\\""'],
  ["é 'a'.txt", "filename*=utf-8''%C3%A9%20%27a%27.txt"],
])('the name %s is told as %s', async (name, parameter) => {
  writeFileSync(join(agent.home, name), '')
  const answer = await download(join(agent.home, name))
  expect(answer.headers['content-disposition']).toBe(`inline; ${parameter}`)
  answer.resume()
})

test.each(['identity', 'gzip'])('what cannot be read is told (%s)', async (encoding) => {
  const answer = await download('/proc/self/mem', { 'Accept-Encoding': encoding })
  expect([answer.statusCode, answer.headers['content-encoding']]).toEqual([500, undefined])
  expect(await json(answer)).toEqual({ code: 500, message: 'read: input/output error' })
})

test('a device has no bytes to download', async () => {
  symlinkSync('/dev/zero', join(agent.home, 'zero'))
  expect(await ask('zero', {})).toEqual([200, '', undefined])
})
