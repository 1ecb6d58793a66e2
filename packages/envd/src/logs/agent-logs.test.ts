import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { startTestAgent, type TestAgent } from '../testing/test-agent.ts'
import { LogExporter } from './log-exporter.ts'

type Line = Record<string, string>

/** Stands for the host: keeps what is posted, answers as told. */
let server: Server
let port: number
let requests: { path: string | undefined; lines: Line[] }[]
let status: number
let hold: Promise<void> | undefined
let agent: TestAgent

beforeEach(async () => {
  requests = []
  status = 200
  hold = undefined
  server = createServer(async (request, response) => {
    let body = ''
    for await (const chunk of request) body += String(chunk)
    if (status === 200) requests.push({ path: request.url, lines: JSON.parse(body) as Line[] })
    await hold
    response.writeHead(status).end()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  port = (server.address() as AddressInfo).port
  agent = await startTestAgent({ eventsPort: port })
}, 60_000)
afterEach(async () => {
  await agent.close()
  server.closeAllConnections()
  server.close()
})

const lines = (): Line[] => requests.flatMap((request) => request.lines)
const init = (body: object = {}): Promise<Response> =>
  agent.post('/init', { hyperloopIP: '127.0.0.1', generation: crypto.randomUUID(), ...body })
const runIn = async (script: string, tag?: string): Promise<void> => {
  const process = { cmd: '/bin/sh', args: ['-c', script], envs: { SECRET: 'hidden' } }
  for await (const _event of agent.processes.start({ process, ...(tag ? { tag } : {}) }));
}

test('tells of processes, files and failures, several lines at once, without contents or variables', async () => {
  await init()
  await runIn('exit 3', 'mine')
  const url = `${agent.baseUrl}/files?path=/tmp/agent-logs-test&username=root`
  const headers = { 'Content-Type': 'application/octet-stream' }
  await fetch(url, { method: 'POST', headers, body: 'hidden' })
  await (await fetch(url)).text()
  await fetch(`${agent.baseUrl}/files?path=/nowhere/at/all`)
  await agent.files.stat({ path: '/tmp' })
  await agent.files.remove({ path: '/tmp/agent-logs-test' })
  await agent.files.stat({ path: '/tmp/agent-logs-test' }).catch(() => {})
  await expect.poll(() => lines().length).toBe(8)
  const pid = expect.stringMatching(/^\d+$/)
  const said = [
    {
      level: 'info',
      logger: 'process',
      message: 'Process started',
      pid,
      tag: 'mine',
      cmd: '/bin/sh -c exit 3',
    },
    { level: 'info', logger: 'process', message: 'Process ended', pid, tag: 'mine', exit_code: '3' },
    { level: 'info', logger: 'filesystem', message: 'File write', path: '/tmp/agent-logs-test' },
    { level: 'info', logger: 'filesystem', message: 'File read', method: 'GET /files' },
    { level: 'error', logger: 'filesystem', message: 'File read', status: '404' },
    { level: 'debug', logger: 'filesystem', message: 'Filesystem Stat', path: '/tmp' },
    { level: 'info', logger: 'filesystem', message: 'Filesystem Remove' },
    { level: 'error', logger: 'filesystem', message: 'Filesystem Stat', error_code: 'NotFound' },
  ]
  // A download is over when its file is closed, which its reader does not wait for.
  expect(lines()).toEqual(expect.arrayContaining(said.map((line) => expect.objectContaining(line))))
  for (const { timestamp } of lines()) expect(Date.now() - Date.parse(timestamp ?? '')).toBeLessThan(10_000)
  expect(JSON.stringify(requests)).not.toContain('hidden')
  expect(requests.length).toBeLessThan(5)
  expect(requests[0]?.path).toBe('/logs')
})

test('a clone begins anew: what its template had to say is not said in its name', async () => {
  await init()
  status = 503
  await runIn('true')
  await new Promise((resolve) => setTimeout(resolve, 300))
  status = 200
  await init()
  await runIn('true', 'clone')
  await expect.poll(() => lines().length).toBe(2)
  expect(lines().map(({ tag }) => tag)).toEqual(['clone', 'clone'])
})

test('before a capture it says what there is to say, then nothing until it goes on', async () => {
  await init()
  await runIn('true', 'before')
  await agent.post('/freeze', {})
  expect(lines().map(({ tag }) => tag)).toEqual(['before', 'before'])
  await runIn('true', 'still')
  await new Promise((resolve) => setTimeout(resolve, 400))
  expect(lines()).toHaveLength(2)
  await init({ generation: undefined })
  await expect.poll(() => lines().map(({ tag }) => tag)).toEqual(['before', 'before', 'still', 'still'])
})

test('a host that does not answer delays a capture by little, and gets the lines later', async () => {
  await init()
  await runIn('true')
  const answers = Promise.withResolvers<void>()
  hold = answers.promise
  const startMs = performance.now()
  await agent.post('/freeze', {})
  expect(performance.now() - startMs).toBeLessThan(1_000)
  answers.resolve()
  requests = []
  await agent.post('/unfreeze', {})
  await expect.poll(() => lines().length).toBe(2)
})

test('what cannot be sent waits within a bound, is sent again, and says how much was lost', async () => {
  const exporter = new LogExporter({ port, delayMs: 10 })
  const line = (message: string): Line & { timestamp: string; level: 'info'; message: string } => ({
    timestamp: '',
    level: 'info',
    message,
  })
  exporter.add(line('before any host is known'))
  exporter.begin('127.0.0.1', true)
  status = 429
  for (let n = 0; n < 1_500; n++) exporter.add(line(`${n}`))
  await new Promise((resolve) => setTimeout(resolve, 100))
  status = 200
  await expect.poll(() => lines().length, { timeout: 5_000 }).toBe(1_001)
  expect(lines()[0]?.message).toBe('500 log lines were dropped')
  expect(
    lines()
      .slice(1)
      .map(({ message }) => Number(message)),
  ).toEqual(Array.from({ length: 1_000 }, (_unused, n) => n + 500))
  for (const request of requests) expect(request.lines.length).toBeLessThanOrEqual(401)
  exporter.close()
})
