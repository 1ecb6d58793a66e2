import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { compile } from '../layer/build.ts'
import { type LaunchSpec, launch } from './launch.ts'
import { type ProcessEvent, RunningProcess } from './running-process.ts'

/** Longer than the silence that ends a process's output. */
const BUSY_MS = 1_200
const KEPT_OPEN_SECONDS = 30

let nativeDir: string

beforeAll(async () => {
  nativeDir = mkdtempSync(join(tmpdir(), 'envd-'))
  await compile('launch', join(nativeDir, 'launch'))
}, 60_000)

afterAll(() => rmSync(nativeDir, { recursive: true }))

const spec = (script: string): LaunchSpec => ({
  command: 'sh',
  args: ['-c', script],
  user: { name: 'root', uid: 0, gid: 0, home: '/', groups: [0] },
  cwd: '/',
  env: { PATH: '/usr/bin:/bin' },
  maxProcesses: undefined,
  stdin: false,
})

/** As an agent is that has much to do, or whose sandbox was paused: nothing else happens in this thread. */
function beBusy(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, BUSY_MS)
}

const textOf = (event: ProcessEvent): string => {
  const { event: what } = event
  if (what?.case !== 'data' || what.value.output?.case === undefined) return ''
  return Buffer.from(what.value.output.value as Uint8Array).toString()
}

/** All that it printed, when the agent hears of its start and its end in one go, and then is busy before it reads. */
async function printedBeforeBusy(script: string): Promise<string> {
  const launching = launch(spec(script), nativeDir)
  beBusy()
  const launched = await launching
  const process = new RunningProcess(launched, { cmd: 'sh', args: [], envs: {} })
  const subscription = process.subscribe()
  void launched.child.exited.then(beBusy)
  let printed = ''
  for (;;) {
    const event = await subscription.next(60_000)
    if (event === undefined) return printed
    if (typeof event === 'object') printed += textOf(event)
  }
}

test('what a process has printed comes before its end, also of an agent that was busy for long', async () => {
  expect(await printedBeforeBusy('echo printed')).toBe('printed\n')
})

test('also where a descendant keeps the output open', async () => {
  const script = `sleep ${KEPT_OPEN_SECONDS} & echo $!`
  const pid = Number(await printedBeforeBusy(script))
  expect(pid).toBeGreaterThan(1)
  process.kill(pid)
})
