import assert from 'node:assert/strict'
import { descriptorBomb, fileBomb, MEMORY_BOMB } from '../../engines/bombs.ts'
import { type Case, withoutGuestKernel } from './case.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'

/** Greedy guests: this machine stays well, a neighbour answers, and their sandboxes go on. */

const PART = 'greed'
const ANSWERS_WITHIN_MS = 60_000
const ENDS_WITHIN_MS = 150_000

let greedy: Running
let neighbour: Running

async function neighbourIsFine(host: HostUnderTest): Promise<number> {
  const startMs = performance.now()
  assert.equal(await host.output(neighbour.address, 'echo fine'), 'fine')
  const ms = Math.round(performance.now() - startMs)
  assert.ok(ms < ANSWERS_WITHIN_MS, `it took ${ms} ms`)
  return ms
}

interface Bomb {
  name: string
  /** What comes first: a part of what it takes, since each file of a guest that is emulated twice takes milliseconds. */
  before?: readonly string[]
  program: string
  /** What it prints where it is met by a limit. @throws AssertionError */
  holds: (printed: string) => void
}

const forks: Bomb = {
  name: 'a fork bomb meets the limit of its sandbox',
  // Of a shell, whose children take next to nothing: memory must not be what ends it.
  program: `
import os, subprocess
os.mkfifo('/tmp/gate')
loop = 'i=0; while [ $i -lt 2000 ]; do (read line < /tmp/gate) & i=$((i+1)); done'
quiet = subprocess.DEVNULL
print('status', subprocess.run(['sh', '-c', loop], stdout=quiet, stderr=quiet).returncode)
# Also for children that have not come to it yet: they find no gate.
gate = os.open('/tmp/gate', os.O_RDWR)
os.unlink('/tmp/gate')
os.close(gate)
`,
  holds: (printed) => assert.match(printed.trim(), /^status [1-9]/),
}

const memory: Bomb = {
  name: 'a memory bomb is ended, alone',
  program: MEMORY_BOMB,
  holds: (printed) => assert.match(printed, /Killed/),
}

/** The disk of a sandbox without a kernel of its own counts bytes alone. */
const files: Bomb = {
  name: 'files: a disk has as many as it holds',
  before: [1, 2, 3, 4].map((part) => fileBomb(`/root/many${part}`, 6_000)),
  program: fileBomb('/root/many', 200_000),
  holds: (printed) => assert.equal(printed, '28'),
}

const descriptors: Bomb = {
  name: 'files: a process has as many as it may',
  program: descriptorBomb(3_000),
  holds: (printed) => assert.equal(printed, '24\nTrue'),
}

/** A bomb in a sandbox, the neighbour's answer while it goes off, and whether the sandbox is there after it. */
const explodes = (of: Pick<Case, 'engine' | 'boot'>, { name, before = [], program, holds }: Bomb): Case => ({
  ...of,
  part: PART,
  name,
  async run(host) {
    neighbour ??= await host.start()
    greedy = await host.start()
    const goOff = (text: string): Promise<string> =>
      host.python(greedy.address, text, AbortSignal.timeout(ENDS_WITHIN_MS))
    for (const text of before) assert.equal(await goOff(text), '')
    const exploding = goOff(program).catch((error: unknown) => `did not end: ${String(error)}`)
    const neighbourMs = await neighbourIsFine(host)
    const printed = await exploding
    holds(printed)
    assert.equal(await host.output(greedy.address, 'echo lives'), 'lives')
    await host.stop(greedy)
    await neighbourIsFine(host)
    return { neighbourMs, printed: printed.slice(-100) }
  },
})

const machine = { engine: 'microvm', boot: 0 } as const

export const greedCases: Case[] = [
  ...[forks, memory, descriptors, files].map((bomb) => explodes(machine, bomb)),
  ...withoutGuestKernel.flatMap((of) => [forks, memory, descriptors].map((bomb) => explodes(of, bomb))),
]
