import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type RequestListener, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as delay } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { callFirecracker, FirecrackerError, listening } from './firecracker-api.ts'

let dir: string
let socketPath: string
let server: Server | undefined

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'fc-api-'))
  socketPath = join(dir, 'api.sock')
})

afterEach(() => {
  server?.closeAllConnections()
  server?.close()
  server = undefined
  rmSync(dir, { recursive: true, force: true })
})

function serve(listener: RequestListener): Promise<void> {
  const made = createServer(listener)
  server = made
  return new Promise((resolve) => made.listen(socketPath, resolve))
}

test('a call is one request with a body whose length is told, and 204 is yes', async () => {
  const seen: unknown[] = []
  await serve(async (request, response) => {
    const { method, url, headers } = request
    seen.push(method, url, headers['content-length'], JSON.parse(await text(request)))
    response.writeHead(204).end()
  })
  await callFirecracker(socketPath, 'PUT', '/actions', { action_type: 'Ü' }, 5_000)
  expect(seen).toEqual(['PUT', '/actions', '20', { action_type: 'Ü' }])
})

test('what is refused is said in its words, and of an endless answer only the beginning', async () => {
  await serve((_request, response) => response.writeHead(400).end(`no such drive${'x'.repeat(2 ** 20)}`))
  const refused = callFirecracker(socketPath, 'PATCH', '/drives/drive9', {}, 5_000)
  await expect(refused).rejects.toThrow(FirecrackerError)
  await expect(refused).rejects.toThrow(/^PATCH \/drives\/drive9 was answered with 400: no such drivex+$/)
  const { message } = (await refused.catch((error: Error) => error as Error)) as Error
  expect(message.length).toBeLessThan(1_100)
})

test('one that does not answer, and one that is gone, end in time', async () => {
  await serve(() => {})
  await expect(callFirecracker(socketPath, 'PUT', '/vm', {}, 100)).rejects.toThrow(/abort|timeout/i)
  server?.closeAllConnections()
  server?.close()
  await expect(callFirecracker(socketPath, 'PUT', '/vm', {}, 5_000)).rejects.toThrow(/ENOENT|ECONNREFUSED/)
})

test('a socket that appears later is noticed', async () => {
  const waiting = listening(socketPath, 10_000)
  await delay(50)
  await serve((_request, response) => response.end())
  await waiting
})

test('a socket that nobody listens on is given up', async () => {
  await expect(listening(socketPath, 50)).rejects.toThrow(/nobody listens/)
})
