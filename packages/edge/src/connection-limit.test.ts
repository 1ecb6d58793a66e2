import type { ServerResponse } from 'node:http'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { plain, publicHost, Testbed } from './testbed.ts'

let bed: Testbed
let port: number
const held: ServerResponse[] = []

beforeAll(async () => {
  bed = await Testbed.start(undefined, { maxPerSandbox: 2 })
  const listener = (_request: unknown, response: ServerResponse): void => {
    held.push(response)
  }
  port = await bed.sandbox('ifull', listener)
  bed.directory.routes.set('iother', { address: '127.0.0.2' })
})
afterAll(() => bed.stop())

test('a sandbox with as many requests as it may have gets no more until one has ended', async () => {
  const first = plain(bed, publicHost(port, 'ifull'))
  const second = plain(bed, publicHost(port, 'ifull'))
  await expect.poll(() => held.length).toBe(2)
  const refused = await plain(bed, publicHost(port, 'ifull'))
  expect([refused.status, JSON.parse(refused.body)]).toEqual([
    429,
    {
      sandboxId: 'ifull',
      message: expect.stringContaining('too many connections'),
      connectionLimit: 2,
      code: 429,
    },
  ])
  expect(refused.headers).toMatchObject({ 'retry-after': '1', 'should-retry': 'true' })
  expect((await plain(bed, publicHost(port, 'iother'))).status).toBe(502)
  held[0]?.end('done')
  expect((await first).body).toBe('done')
  const third = plain(bed, publicHost(port, 'ifull'))
  await expect.poll(() => held.length).toBe(3)
  for (const response of held) response.end()
  expect((await third).status).toBe(200)
  await second
})
