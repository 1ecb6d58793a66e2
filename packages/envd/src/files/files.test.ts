import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { join } from 'node:path'
import { json } from 'node:stream/consumers'
import { gunzipSync, gzipSync } from 'node:zlib'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startTestAgent, type TestAgent } from '../testing/test-agent.ts'

let agent: TestAgent
let secured: TestAgent
const TOKEN = 'a-token'

beforeAll(async () => {
  agent = await startTestAgent()
  secured = await startTestAgent({ token: TOKEN })
}, 60_000)

afterAll(async () => {
  await agent.close()
  await secured.close()
})

const query = (values: Record<string, string>): string => `/files?${new URLSearchParams(values)}`
const at = (path: string, more: Record<string, string> = {}): string =>
  agent.baseUrl + query({ path, username: 'user', ...more })

const raw = (
  url: string,
  body: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = {},
): Promise<Response> =>
  fetch(url, { method: 'POST', body, headers: { 'Content-Type': 'application/octet-stream', ...headers } })

const errorOf = async (answer: Response): Promise<[number, string]> => {
  const body = (await answer.json()) as { code: number; message: string }
  expect(body.code).toBe(answer.status)
  return [answer.status, body.message]
}

/** Without the Accept-Encoding that fetch adds by itself. */
function plainGet(
  url: string,
  headers: Record<string, string>,
): Promise<{ status: number; headers: NodeJS.Dict<string | string[]>; body: Buffer }> {
  return new Promise((resolve, reject) => {
    request(url, { headers }, (answer) => {
      const chunks: Buffer[] = []
      answer.on('data', (chunk: Buffer) => chunks.push(chunk))
      answer.on('end', () =>
        resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: Buffer.concat(chunks) }),
      )
    })
      .once('error', reject)
      .end()
  })
}

test('a form keeps the directories of file names and answers three keys', async () => {
  const form = new FormData()
  form.append('ignored', new Blob(['x']), 'ignored.txt')
  form.append('file', new Blob(['one']), 'made/by/form/1.txt')
  form.append('file', new Blob(['']), join(agent.home, 'made/2.txt'))
  const answer = await fetch(agent.baseUrl + query({ username: 'user' }), { method: 'POST', body: form })
  expect(await answer.json()).toEqual([
    { path: join(agent.home, 'made/by/form/1.txt'), name: '1.txt', type: 'file' },
    { path: join(agent.home, 'made/2.txt'), name: '2.txt', type: 'file' },
  ])
  const info = statSync(join(agent.home, 'made/by/form/1.txt'))
  expect([info.uid, info.gid, info.mode & 0o777]).toEqual([1000, 1000, 0o644])
  expect(statSync(join(agent.home, 'made/by')).uid).toBe(1000)
  expect(existsSync(join(agent.home, 'ignored.txt'))).toBe(false)
})

test('two files of a form may not have one target', async () => {
  const form = new FormData()
  form.append('file', new Blob(['first']), 'a')
  form.append('file', new Blob(['second']), 'b')
  const answer = await fetch(at('same'), { method: 'POST', body: form })
  const [status, message] = await errorOf(answer)
  expect(status).toBe(400)
  expect(message).toContain('only the first specified file was uploaded')
  expect(readFileSync(join(agent.home, 'same'), 'utf8')).toBe('first')
})

test('a large form arrives whole, whatever the chunks', async () => {
  const content = Buffer.alloc(3_000_000, '\r\n--almost a boundary')
  const form = new FormData()
  form.append('file', new Blob([content]), 'large.bin')
  await fetch(agent.baseUrl + query({ username: 'user' }), { method: 'POST', body: form })
  expect(readFileSync(join(agent.home, 'large.bin')).equals(content)).toBe(true)
})

test('raw bodies: streamed, compressed, refused', async () => {
  expect((await raw(at('raw.bin'), Buffer.from('plain'))).status).toBe(200)
  expect(readFileSync(join(agent.home, 'raw.bin'), 'utf8')).toBe('plain')
  await raw(at('raw.bin'), gzipSync('packed'), { 'Content-Encoding': 'gzip' })
  expect(readFileSync(join(agent.home, 'raw.bin'), 'utf8')).toBe('packed')
  expect((await errorOf(await raw(at('raw.bin'), 'x', { 'Content-Encoding': 'br' })))[0]).toBe(400)
  expect(await errorOf(await raw(agent.baseUrl + query({ username: 'user' }), 'x'))).toEqual([
    400,
    'path query parameter is required for raw body upload',
  ])
  expect((await errorOf(await raw(at('raw.bin'), 'x', { 'Content-Type': 'text/plain' })))[0]).toBe(400)
  expect((await errorOf(await raw(at(agent.home), 'x')))[0]).toBe(400)
  expect((await errorOf(await raw(at('raw.bin/below'), 'x')))[0]).toBe(500)
})

test('an overwrite keeps the mode and replaces the metadata', async () => {
  writeFileSync(join(agent.home, 'mode.sh'), 'a long old content', { mode: 0o755 })
  const first = await raw(at('mode.sh'), 'new', { 'X-Metadata-Author': 'me', 'X-Metadata-Two': '2' })
  expect(await first.json()).toEqual([
    {
      path: join(agent.home, 'mode.sh'),
      name: 'mode.sh',
      type: 'file',
      metadata: { author: 'me', two: '2' },
    },
  ])
  expect(readFileSync(join(agent.home, 'mode.sh'), 'utf8')).toBe('new')
  expect(statSync(join(agent.home, 'mode.sh')).mode & 0o777).toBe(0o755)
  const second = await raw(at('mode.sh'), 'new', { 'X-Metadata-Two': '3' })
  expect(((await second.json()) as { metadata: unknown }[])[0]?.metadata).toEqual({ two: '3' })
  const { entry } = await agent.files.stat({ path: join(agent.home, 'mode.sh') })
  expect(entry?.metadata).toEqual({ two: '3' })
  expect((await raw(at('mode.sh'), 'x', { [`X-Metadata-${'k'.repeat(247)}`]: 'v' })).status).toBe(400)
})

test('of metadata headers with one name the first counts, and none outlives the next upload', async () => {
  const send = async (headers: [string, string][]): Promise<unknown> => {
    const outgoing = request(at('named'), {
      method: 'POST',
      headers: ['Host', 'envd', 'Content-Type', 'application/octet-stream', ...headers.flat()],
    })
    outgoing.end()
    const [answer] = (await once(outgoing, 'response')) as [IncomingMessage]
    return ((await json(answer)) as { metadata?: unknown }[])[0]?.metadata
  }
  const doubled: [string, string][] = [
    ['X-Metadata-Key', 'first'],
    ['x-metadata-key', 'second'],
    ['X-Metadata-Constructor', 'who'],
  ]
  expect(await send(doubled)).toEqual({ key: 'first', constructor: 'who' })
  expect(await send([])).toBeUndefined()
})

test('a full disk is 507 with the size that was announced', async () => {
  const [status, message] = await errorOf(await raw(at('/dev/full'), 'abc'))
  expect([status, message]).toEqual([507, 'attempted to write 3 bytes: not enough disk space available'])
})

test('downloads: type, name, empty, missing, directory', async () => {
  writeFileSync(join(agent.home, 'page.html'), '<p>')
  writeFileSync(join(agent.home, 'empty'), '')
  const page = await plainGet(at('page.html'), {})
  expect(page.status).toBe(200)
  expect(page.headers['content-type']).toBe('text/html; charset=utf-8')
  expect(page.headers['content-disposition']).toBe('inline; filename=page.html')
  expect(page.headers.vary).toBe('Accept-Encoding')
  expect((await plainGet(at('empty'), {})).headers['content-length']).toBe('0')
  const missing = `path '${join(agent.home, 'none')}' does not exist`
  expect(await errorOf(await fetch(at('none')))).toEqual([404, missing])
  expect(await errorOf(await fetch(at('~')))).toEqual([400, `path '${agent.home}' is a directory`])
  expect((await errorOf(await fetch(at('x', { username: 'who' }))))[0]).toBe(401)
})

test('downloads: gzip, ranges, conditions, refused encodings', async () => {
  writeFileSync(join(agent.home, 'digits.txt'), '0123456789')
  const url = at('digits.txt')
  const packed = await plainGet(url, { 'Accept-Encoding': 'gzip, deflate' })
  expect(packed.headers['content-encoding']).toBe('gzip')
  expect(gunzipSync(packed.body).toString()).toBe('0123456789')
  const part = await plainGet(url, { Range: 'bytes=2-4', 'Accept-Encoding': 'gzip' })
  expect([part.status, part.body.toString(), part.headers['content-range']]).toEqual([
    206,
    '234',
    'bytes 2-4/10',
  ])
  expect((await plainGet(url, { Range: 'bytes=-3' })).body.toString()).toBe('789')
  expect((await plainGet(url, { Range: 'bytes=10-' })).status).toBe(416)
  const modified = String(part.headers['last-modified'])
  expect((await plainGet(url, { 'If-Modified-Since': modified })).status).toBe(304)
  expect((await plainGet(url, { 'Accept-Encoding': 'identity;q=0, br' })).status).toBe(406)
  expect((await plainGet(url, { 'Accept-Encoding': '*;q=0', Range: 'bytes=0-1' })).status).toBe(406)
})

test('a large file is compressed only where that saves something', async () => {
  const answer = async (content: Buffer, accepted: string) => {
    writeFileSync(join(agent.home, 'large'), content)
    const { headers, body } = await plainGet(at('large'), { 'Accept-Encoding': accepted })
    const encoding = headers['content-encoding']
    expect((encoding === 'gzip' ? gunzipSync(body) : body).equals(content)).toBe(true)
    return encoding
  }
  const random = randomBytes(3 * 2 ** 20)
  expect(await answer(Buffer.alloc(3 * 2 ** 20, 'words and words '), 'br, gzip, deflate')).toBe('gzip')
  expect(await answer(random, 'br, gzip, deflate')).toBe(undefined)
  expect(await answer(random, 'gzip, identity;q=0')).toBe('gzip')
})

test('a pipe without another end holds nobody up', async () => {
  execFileSync('/usr/bin/mkfifo', [join(agent.home, 'pipe')])
  for (let attempt = 0; attempt < 6; attempt++) {
    expect((await plainGet(at('pipe'), {})).status).toBe(500)
    expect((await raw(at('pipe'), 'x')).status).toBe(500)
  }
})

test('compose joins and removes its sources', async () => {
  for (const [name, text] of [
    ['p1', 'one '],
    ['p2', 'two'],
  ] as const)
    writeFileSync(join(agent.home, name), text)
  const body = { source_paths: ['p1', 'p2'], destination: 'whole/file', username: 'user' }
  const answer = await agent.post('/files/compose', body)
  expect(await answer.json()).toEqual({ path: join(agent.home, 'whole/file'), name: 'file', type: 'file' })
  expect(readFileSync(join(agent.home, 'whole/file'), 'utf8')).toBe('one two')
  expect(existsSync(join(agent.home, 'p1'))).toBe(false)
  expect((await agent.post('/files/compose', body)).status).toBe(404)
  expect((await agent.post('/files/compose', { source_paths: [], destination: 'x' })).status).toBe(400)
})

test('compose is done when its sources cannot be removed, and says why it cannot be', async () => {
  const done = await agent.post('/files/compose', {
    source_paths: ['/proc/self/comm'],
    destination: join(agent.home, 'comm'),
  })
  expect(done.status).toBe(200)
  writeFileSync(join(agent.home, 'p3'), 'three')
  const refused = { source_paths: ['p3'], destination: 'p3/below', username: 'user' }
  const reason = `error ensuring directories: path is a file: ${join(agent.home, 'p3')}`
  expect(await errorOf(await agent.post('/files/compose', refused))).toEqual([500, reason])
})

test('access to files: header, then signature, then expiry', async () => {
  mkdirSync(join(secured.home, 'dir'))
  writeFileSync(join(secured.home, 'f.txt'), 'secret')
  const sign = (path: string, operation: string, user: string, expiration?: number): string => {
    const parts = [path, operation, user, TOKEN, ...(expiration === undefined ? [] : [String(expiration)])]
    return `v1_${createHash('sha256').update(parts.join(':')).digest('base64').replace(/=+$/, '')}`
  }
  const read = (values: Record<string, string>, headers: Record<string, string> = {}) =>
    fetch(secured.baseUrl + query({ path: 'f.txt', username: 'user', ...values }), { headers })
  expect(await errorOf(await read({}, { 'X-Access-Token': 'other' }))).toEqual([
    401,
    'access token present in header but does not match',
  ])
  expect(await errorOf(await read({}))).toEqual([401, 'missing signature query parameter'])
  expect(await errorOf(await read({ signature: 'v1_x' }))).toEqual([401, 'invalid signature'])
  const write = sign('f.txt', 'write', 'user')
  expect(await errorOf(await read({ signature: write }))).toEqual([401, 'invalid signature'])
  const past = Math.floor(Date.now() / 1000) - 10
  expect(
    await errorOf(
      await read({ signature: sign('f.txt', 'read', 'user', past), signature_expiration: `${past}` }),
    ),
  ).toEqual([401, 'signature is already expired'])
  expect(await (await read({ signature: sign('f.txt', 'read', 'user') })).text()).toBe('secret')
  expect(await (await read({}, { 'X-Access-Token': TOKEN })).text()).toBe('secret')
  const anonymous =
    secured.baseUrl +
    query({ path: join(secured.home, 'f.txt'), signature: sign(join(secured.home, 'f.txt'), 'read', '') })
  expect(await (await fetch(anonymous)).text()).toBe('secret')
})
