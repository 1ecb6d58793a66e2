import { execFileSync } from 'node:child_process'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openStore } from './store.ts'
import { startPostgres, type TestPostgres } from './testing/postgres.ts'

let server: TestPostgres
beforeAll(async () => {
  server = await startPostgres()
}, 300_000)
afterAll(() => server?.stop())

test('the kernel asks on every connection whether the server is still there, also on one that only listens', async () => {
  const url = await server.createDatabase()
  const store = await openStore({ url })
  try {
    const port = new URL(url).port
    const sockets = execFileSync('ss', ['-tnoHp', `dport = :${port}`], { encoding: 'utf8' })
    const own = sockets.split('\n').filter((line) => line.includes(`pid=${process.pid},`))
    expect(own.length).toBeGreaterThan(1)
    expect(own.filter((line) => !line.includes('timer:(keepalive'))).toEqual([])
  } finally {
    await store.close()
  }
})
