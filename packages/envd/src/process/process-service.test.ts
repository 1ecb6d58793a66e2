import { join } from 'node:path'
import { create } from '@bufbuild/protobuf'
import { Code, type ConnectError, createClient, createRouterTransport } from '@connectrpc/connect'
import {
  Process,
  type ProcessEvent,
  type ProcessEvent_EndEvent,
  Signal,
  StreamInputRequestSchema,
} from '@sandbox/contract/gen/process/process_pb'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { AgentLog } from '../logs/agent-log.ts'
import { LogExporter } from '../logs/log-exporter.ts'
import { AgentState } from '../state.ts'
import { actingAs, startTestAgent, type TestAgent } from '../testing/test-agent.ts'
import { processService } from './process-service.ts'
import { ProcessRegistry } from './registry.ts'

let agent: TestAgent

beforeAll(async () => {
  agent = await startTestAgent()
}, 60_000)

afterAll(() => agent.close())

type Events = AsyncIterable<{ event?: ProcessEvent | undefined }>

async function collect(events: Events) {
  const seen = {
    cases: [] as string[],
    stdout: '',
    stderr: '',
    pty: '',
    pid: 0,
    keepalives: 0,
    chunkBytes: 0,
  }
  let end: ProcessEvent_EndEvent | undefined
  for await (const { event } of events) {
    const value = event?.event
    seen.cases.push(value?.case ?? '')
    if (value?.case === 'start') seen.pid = value.value.pid
    if (value?.case === 'keepalive') seen.keepalives++
    if (value?.case === 'data' && value.value.output.case) {
      seen[value.value.output.case] += Buffer.from(value.value.output.value).toString('latin1')
      seen.chunkBytes = Math.max(seen.chunkBytes, value.value.output.value.length)
    }
    if (value?.case === 'end') end = value.value
  }
  return { ...seen, end }
}

const shell = (script: string, more: object = {}) => ({
  process: { cmd: '/bin/sh', args: ['-c', script], envs: {}, ...more },
})

const failure = async (action: () => Promise<unknown>): Promise<ConnectError> => {
  try {
    await action()
  } catch (error) {
    return error as ConnectError
  }
  throw new Error('expected a failure')
}

test('start comes first, then output, then the end in the words of Go', async () => {
  const run = await collect(agent.processes.start(shell('echo out; echo err >&2')))
  expect(run.cases[0]).toBe('start')
  expect(run.cases.at(-1)).toBe('end')
  expect([run.stdout, run.stderr]).toEqual(['out\n', 'err\n'])
  expect(run.end).toMatchObject({ exitCode: 0, exited: true, status: 'exit status 0' })
  expect(run.end?.error).toBeUndefined()
})

test('a failing command and a killed one', async () => {
  const failed = await collect(agent.processes.start(shell('exit 7')))
  expect(failed.end).toMatchObject({ exitCode: 7, exited: true, error: 'exit status 7' })
  const killed = await collect(agent.processes.start(shell('kill -9 $$')))
  expect(killed.end).toMatchObject({ exitCode: -1, exited: false, status: 'signal: killed' })
  const missing = await collect(agent.processes.start({ process: { cmd: 'no-such-program' } }))
  expect(missing.end).toMatchObject({ exitCode: 127, exited: true })
})

test('environment: PATH, the user, the request, and nothing of the agent', async () => {
  const run = await collect(
    agent.processes.start(shell('env', { envs: { A: 'b', HOME: '/elsewhere' } }), actingAs('user')),
  )
  const names = run.stdout.split('\n').map((line) => line.split('=')[0])
  expect(run.stdout).toContain('PATH=/usr/local/bin:/usr/bin:/bin\n')
  expect(run.stdout).toContain('HOME=/elsewhere\n')
  expect(run.stdout).toContain('USER=user\n')
  expect(run.stdout).toContain('A=b\n')
  expect(names).not.toContain('VITEST')
})

test('runs as the user with groups, priorities and working directory', async () => {
  const script = 'id -u; id -g; id -G; pwd; cat /proc/self/oom_score_adj'
  const run = await collect(agent.processes.start(shell(script), actingAs('user')))
  expect(run.stdout).toBe(`1000\n1000\n1000 2000\n${agent.home}\n100\n`)
})

test('working directory: relative to home, tilde, missing', async () => {
  const script = 'mkdir -p deep && cd deep && pwd'
  await collect(agent.processes.start(shell(script), actingAs('user')))
  for (const cwd of ['deep', '~/deep', `${agent.home}/deep`]) {
    const run = await collect(agent.processes.start(shell('pwd', { cwd }), actingAs('user')))
    expect(run.stdout).toBe(`${agent.home}/deep\n`)
  }
  const missing = await failure(() => collect(agent.processes.start(shell('pwd', { cwd: '/nowhere' }))))
  expect([missing.code, missing.rawMessage]).toEqual([Code.InvalidArgument, "cwd '/nowhere' does not exist"])
  const other = await failure(() => collect(agent.processes.start(shell('pwd', { cwd: '~other' }))))
  expect(other.rawMessage).toContain('cannot expand user-specific home dir')
})

test('a NUL, behind which the kernel would see nothing, is refused wherever it stands', async () => {
  const hidden = 'a\0b'
  const echo = { cmd: 'echo', args: ['a'] }
  for (const config of [
    { cmd: hidden },
    { cmd: 'echo', args: [hidden] },
    { ...echo, cwd: `/tmp${hidden}` },
    { ...echo, envs: { A: hidden } },
    { ...echo, envs: { [hidden]: 'x' } },
  ]) {
    const refused = await failure(() => collect(agent.processes.start({ process: config })))
    expect([refused.code, refused.rawMessage]).toEqual([
      Code.InvalidArgument,
      expect.stringContaining('invalid argument'),
    ])
  }
})

test('an unknown user is unauthenticated, on every call', async () => {
  const start = await failure(() => collect(agent.processes.start(shell('true'), actingAs('root123'))))
  expect([start.code, start.rawMessage]).toEqual([Code.Unauthenticated, "invalid username: 'root123'"])
  const list = await failure(() => agent.processes.list({}, actingAs('root123')))
  expect(list.code).toBe(Code.Unauthenticated)
})

test('stdin: input in order, closing, off', async () => {
  const events = agent.processes.start({ ...shell('cat'), stdin: true })
  const reader = collect(events)
  const { pid } = await started('cat')
  const process = { selector: { case: 'pid' as const, value: pid } }
  const send = (text: string) =>
    agent.processes.sendInput({ process, input: { input: { case: 'stdin', value: Buffer.from(text) } } })
  await send('one ')
  await send('two')
  await agent.processes.closeStdin({ process })
  await agent.processes.closeStdin({ process }).catch(() => {})
  expect((await reader).stdout).toBe('one two')
  const off = await collect(
    agent.processes.start({ ...shell('cat; readlink /proc/self/fd/0'), stdin: false }),
  )
  expect(off.stdout).toBe('/dev/null\n')
})

async function started(argument: string): Promise<{ pid: number }> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const { processes } = await agent.processes.list({})
    const found = processes.find((process) => process.config?.args.includes(argument))
    if (found) return found
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  throw new Error(`no process with ${argument}`)
}

for (const version of ['1.1', '2'] as const) {
  test(`StreamInput writes as it arrives and answers at the end (HTTP/${version})`, async () => {
    const processes = version === '2' ? agent.http2Clients().processes : agent.processes
    const name = `read a; echo got $a; read b; echo then $b # ${version}`
    const reader = collect(processes.start({ ...shell(name), stdin: true }))
    const { pid } = await started(name)
    const process = { selector: { case: 'pid' as const, value: pid } }
    async function* input() {
      yield create(StreamInputRequestSchema, { event: { case: 'start', value: { process } } })
      for (const text of ['x\n', 'y\n']) {
        const value = { input: { input: { case: 'stdin' as const, value: Buffer.from(text) } } }
        yield create(StreamInputRequestSchema, { event: { case: 'data', value } })
        yield create(StreamInputRequestSchema, { event: { case: 'keepalive', value: {} } })
      }
    }
    await processes.streamInput(input())
    expect((await reader).stdout).toBe('got x\nthen y\n')
  })

  test(`StreamInput fails at once while the client still sends (HTTP/${version})`, async () => {
    const processes = version === '2' ? agent.http2Clients().processes : agent.processes
    let finish: () => void = () => {}
    async function* input() {
      const process = { selector: { case: 'pid' as const, value: 4_000_000 } }
      yield create(StreamInputRequestSchema, { event: { case: 'start', value: { process } } })
      await new Promise<void>((resolve) => {
        finish = resolve
      })
    }
    const error = await failure(() => processes.streamInput(input()))
    finish()
    expect([error.code, error.rawMessage]).toEqual([Code.NotFound, 'process with pid 4000000 not found'])
  })
}

test('a deadline kills the process and fails the stream', async () => {
  const script = 'echo $$; exec sleep 30'
  const events = agent.processes.start(shell(script), { timeoutMs: 400 })
  let pid = 0
  const error = await failure(async () => {
    for await (const { event } of events) if (event?.event.case === 'start') pid = event.event.value.pid
  })
  expect(error.code).toBe(Code.DeadlineExceeded)
  await expect.poll(() => isRunning(pid), { timeout: 2000 }).toBe(false)
})

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

test('a timeout of zero or of months is no timeout', async () => {
  for (const value of ['0', '9999999999']) {
    const options = { headers: { 'Connect-Timeout-Ms': value } }
    const run = await collect(agent.processes.start(shell('sleep 0.2; echo done'), options))
    expect(run.stdout).toBe('done\n')
  }
})

test('keepalive events fill silence', async () => {
  const options = { headers: { 'Keepalive-Ping-Interval': '1' } }
  const run = await collect(agent.processes.start(shell('sleep 2.5'), options))
  expect(run.keepalives).toBe(2)
})

test('a process outlives its client; a late Connect gets how it ended', async () => {
  const abort = new AbortController()
  const script = 'sleep 0.5; exit 9'
  const events = agent.processes.start({ ...shell(script), tag: 'late' }, { signal: abort.signal })
  const reading = failure(() => collect(events))
  await started(script)
  abort.abort()
  await reading
  const process = { selector: { case: 'tag' as const, value: 'late' } }
  expect((await collect(agent.processes.connect({ process }))).end?.exitCode).toBe(9)
  const again = await collect(agent.processes.connect({ process }))
  expect(again.cases).toEqual(['start', 'end'])
  expect(again.end?.exitCode).toBe(9)
})

test('every subscriber sees all events after it came', async () => {
  const script = 'read go; echo all; exit 0'
  const first = collect(agent.processes.start({ ...shell(script), stdin: true }))
  const { pid } = await started(script)
  const process = { selector: { case: 'pid' as const, value: pid } }
  const second = collect(agent.processes.connect({ process }))
  await new Promise((resolve) => setTimeout(resolve, 100))
  await agent.processes.sendInput({ process, input: { input: { case: 'stdin', value: Buffer.from('\n') } } })
  expect([(await first).stdout, (await second).stdout]).toEqual(['all\n', 'all\n'])
})

test('signals reach the process alone; others are unimplemented; unknown is not found', async () => {
  const script = 'sleep 77 & echo $!; wait'
  const reader = collect(agent.processes.start(shell(script)))
  const { pid } = await started(script)
  const process = { selector: { case: 'pid' as const, value: pid } }
  const odd = await failure(() => agent.processes.sendSignal({ process, signal: Signal.UNSPECIFIED }))
  expect(odd.code).toBe(Code.Unimplemented)
  await new Promise((resolve) => setTimeout(resolve, 100))
  await agent.processes.sendSignal({ process, signal: Signal.SIGKILL })
  const run = await reader
  expect(run.end?.status).toBe('signal: killed')
  const grandchild = Number(run.stdout)
  expect(isRunning(grandchild)).toBe(true)
  globalThis.process.kill(grandchild, 'SIGKILL')
  const gone = await failure(() => agent.processes.sendSignal({ process, signal: Signal.SIGKILL }))
  expect(gone.code).toBe(Code.NotFound)
})

test('who was told that a process has been killed does not find it any more', async () => {
  for (let round = 0; round < 20; round++) {
    const script = `sleep 78 # ${round}`
    const reader = collect(agent.processes.start(shell(script)))
    const { pid } = await started(script)
    await agent.processes.sendSignal({
      process: { selector: { case: 'pid', value: pid } },
      signal: Signal.SIGKILL,
    })
    expect(isRunning(pid)).toBe(false)
    await reader
  }
})

test('input of every kind is activity, after which a port may be open', async () => {
  const registry = new ProcessRegistry(
    join(agent.rootDir, 'native'),
    new AgentLog(new LogExporter({ port: 1 })),
  )
  const state = new AgentState({ rootDir: agent.rootDir, defaultUser: 'root' })
  const service = processService({ state, registry, path: '/usr/bin:/bin' })
  const processes = createClient(
    Process,
    createRouterTransport((router) => router.service(Process, service)),
  )
  const reader = collect(processes.start(shell('head -c 6')))
  await expect.poll(() => registry.running.length).toBe(1)
  let activities = 0
  registry.onActivity = () => activities++
  const selected = { selector: { case: 'pid' as const, value: registry.running[0]!.pid } }
  const input = { input: { case: 'stdin' as const, value: Buffer.from('two') } }
  await processes.sendInput({ process: selected, input })
  expect(activities).toBe(1)
  await processes.streamInput(
    (async function* () {
      yield create(StreamInputRequestSchema, { event: { case: 'start', value: { process: selected } } })
      yield create(StreamInputRequestSchema, { event: { case: 'data', value: { input } } })
    })(),
  )
  expect(activities).toBe(2)
  expect((await reader).stdout).toBe('twotwo')
})

test('a background process that keeps the pipe does not delay the end', async () => {
  const run = await collect(agent.processes.start(shell('sleep 1000 & echo done $!')))
  const pid = Number(/^done (\d+)\n$/.exec(run.stdout)?.[1])
  // Still there, so nobody has waited for it.
  process.kill(pid)
})

test('output is unmodified, in chunks of at most 32 KiB', async () => {
  const run = await collect(agent.processes.start(shell('head -c 5000000 /dev/zero; printf "\\377\\200"')))
  expect(run.stdout.length).toBe(5_000_002)
  expect(run.stdout.endsWith('\u00ff\u0080')).toBe(true)
  expect(run.chunkBytes).toBeLessThanOrEqual(32 * 1024)
})

test('a reader that does not read stops the process, not the agent', async () => {
  const abort = new AbortController()
  const script = 'head -c 300000000 /dev/zero # slow'
  const before = process.memoryUsage().rss
  const body = Buffer.from(JSON.stringify({ process: { cmd: '/bin/sh', args: ['-c', script] } }))
  const frame = Buffer.concat([Buffer.from([0, 0, 0, body.length >> 8, body.length & 255]), body])
  const answer = await fetch(`${agent.baseUrl}/process.Process/Start`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/connect+json' },
    body: frame,
    signal: abort.signal,
  })
  expect(answer.status).toBe(200)
  await new Promise((resolve) => setTimeout(resolve, 1000))
  const { pid } = await started(script)
  expect(process.memoryUsage().rss - before).toBeLessThan(150_000_000)
  expect((await agent.processes.list({})).processes.some((running) => running.pid === pid)).toBe(true)
  abort.abort()
  await expect.poll(() => isRunning(pid), { timeout: 10_000 }).toBe(false)
}, 20_000)

test('a terminal: size, resize, input, exit code', async () => {
  const size = { cols: 90, rows: 20 }
  const reader = collect(
    agent.processes.start({
      process: { cmd: '/bin/sh', args: ['-c', 'stty size; read x; stty size; exit 4 # pty'] },
      pty: { size },
    }),
  )
  const { pid } = await started('stty size; read x; stty size; exit 4 # pty')
  const process = { selector: { case: 'pid' as const, value: pid } }
  await agent.processes.update({ process, pty: { size: { cols: 120, rows: 40 } } })
  const wrong = await failure(() =>
    agent.processes.sendInput({ process, input: { input: { case: 'stdin', value: Buffer.from('x') } } }),
  )
  expect(wrong.code).toBe(Code.Internal)
  expect((await failure(() => agent.processes.closeStdin({ process }))).code).toBe(Code.Unknown)
  await agent.processes.sendInput({ process, input: { input: { case: 'pty', value: Buffer.from('go\n') } } })
  const run = await reader
  expect(run.pty).toContain('40 120')
  expect(run.end?.exitCode).toBe(4)
})
