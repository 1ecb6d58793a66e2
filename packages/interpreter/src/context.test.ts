/** What comes between the steps of an execution: interrupts, restarts, clients that leave. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer, request, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { afterAll, expect, test } from 'vitest'
import { Context } from './context.ts'
import { JupyterClient } from './jupyter.ts'
import { SandboxEnvironment } from './sandbox-environment.ts'
import { sandboxOfTests } from './testing-sandbox.ts'

const sandbox = sandboxOfTests()
const servers: Server[] = []
afterAll(() => {
  for (const server of servers) server.close().closeAllConnections()
})

async function listening(server: Server, path?: string): Promise<number> {
  servers.push(server)
  if (path === undefined) server.listen(0, '127.0.0.1')
  else server.listen(path)
  await once(server, 'listening')
  return path === undefined ? (server.address() as AddressInfo).port : 0
}

/** A context of the sandbox's Jupyter Server that the sandbox's own service does not know. */
async function contextBy(socketPath: string, agentPort: number): Promise<Context> {
  const connectionDir = join(sandbox.home, '.local/share/jupyter/runtime')
  const jupyter = new JupyterClient({ socketPath, connectionDir })
  const environment = new SandboxEnvironment({ generationFile: sandbox.generationFile, agentPort })
  const info = { id: await jupyter.startKernel('python3'), language: 'python', cwd: sandbox.home }
  const context = new Context(info, jupyter, environment, () => jupyter.knowsKernel(info.id))
  await context.warmUp()
  return context
}

async function run(context: Context, code: string, signal = new AbortController().signal): Promise<string> {
  let told = ''
  const output = {
    write: (message: object) => {
      told += JSON.stringify(message)
      return true
    },
    onDrain: () => undefined,
  }
  await context.execute({ code, env: {}, accessToken: undefined }, output, signal)
  return told
}

test('an interrupt that comes late does not meet the execution after its own', async () => {
  const socketPath = join(sandbox.directory, 'slow-interrupts.sock')
  const slow = createServer(async (incoming, answer) => {
    if (incoming.url?.endsWith('/interrupt')) await delay(600)
    const { method, url: path, headers } = incoming
    const call = request({ socketPath: sandbox.socketPath, method, path, headers }, (response) => {
      answer.writeHead(response.statusCode ?? 502, response.headers)
      response.pipe(answer)
    })
    incoming.pipe(call)
  })
  await listening(slow, socketPath)
  const context = await contextBy(socketPath, 1)
  const left = new AbortController()
  const abandoned = run(context, 'import time; time.sleep(0.5)', left.signal)
  await delay(300)
  left.abort()
  const next = run(context, 'time.sleep(1); "un" + "disturbed"')
  await abandoned
  expect(await next).toContain('"text":"undisturbed"')
  await context.remove()
})

test('a restart while an execution is prepared is waited for, and prepares its process', async () => {
  const asked = Promise.withResolvers<void>()
  const restarted = Promise.withResolvers<void>()
  const agent = createServer(async (_incoming, answer) => {
    asked.resolve()
    await restarted.promise
    answer.end('{"WIDE": "told"}')
  })
  const context = await contextBy(sandbox.socketPath, await listening(agent))
  const told = run(context, 'import os; print(os.environ["WIDE"], os.getcwd())')
  await asked.promise
  await context.restart()
  restarted.resolve()
  expect(await told).toContain(`told ${sandbox.home}`)
  await context.remove()
})

test('names of the user are not taken for those of Python', async () => {
  const shadow = 'def exec(*given): raise RuntimeError\nimport os'
  const read = 'os.environ.get("ONCE")'
  const { 0: made } = await sandbox.execute(shadow)
  expect(made?.type).toBe('number_of_executions')
  const lines = await sandbox.execute(read, { env_vars: { ONCE: 'here' } })
  expect(lines).toContainEqual(expect.objectContaining({ type: 'result', text: 'here' }))
  expect(await sandbox.execute(`del exec; ${read}`)).not.toContainEqual(
    expect.objectContaining({ type: 'result' }),
  )
})

test('a client that leaves at once does not cost a copy its own random numbers', async () => {
  await sandbox.execute('import random; many = [[] for _ in range(1_000_000)]; kept = random.Random(1)')
  writeFileSync(sandbox.generationFile, JSON.stringify({ generation: 'left at once' }))
  const left = new AbortController()
  await sandbox.post('/execute', { code: 'pass' }, left.signal)
  await delay(150)
  left.abort()
  const lines = await sandbox.execute('del many; kept.random() == random.Random(1).random()')
  expect(lines).toContainEqual(expect.objectContaining({ type: 'result', text: 'False' }))
})
