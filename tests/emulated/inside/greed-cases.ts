import assert from 'node:assert/strict'
import { descriptorBomb, fileBomb, MEMORY_BOMB } from '../../engines/bombs.ts'
import type { Case } from './case.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'

/** Greedy guests: this machine stays well and a neighbour answers. */

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

/** A bomb of its own machine, the neighbour's answer while it goes off, and whether the machine is there after it. */
const bomb = (name: string, program: string, holds: (printed: string) => void): Case => ({
  part: PART,
  name,
  engine: 'microvm',
  boot: 0,
  async run(host) {
    neighbour ??= await host.start()
    greedy = await host.start()
    const exploding = host
      .python(greedy.address, program, AbortSignal.timeout(ENDS_WITHIN_MS))
      .catch((error: unknown) => `did not end: ${String(error)}`)
    const neighbourMs = await neighbourIsFine(host)
    const printed = await exploding
    holds(printed)
    assert.equal(await host.output(greedy.address, 'echo lives'), 'lives')
    await host.stop(greedy)
    await neighbourIsFine(host)
    return { neighbourMs, printed: printed.slice(-100) }
  },
})

export const greedCases: Case[] = [
  bomb(
    'a fork bomb meets the limit of its machine',
    // Of a shell, whose children take next to nothing: memory must not be what ends it.
    `
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
    (printed) => assert.match(printed.trim(), /^status [1-9]/),
  ),
  bomb('a memory bomb ends by the kernel of its machine', MEMORY_BOMB, (printed) =>
    assert.match(printed, /Killed/),
  ),
  bomb(
    'files: a process has as many as it may, a disk as many as it holds',
    descriptorBomb(3_000) + fileBomb('/root/many'),
    (printed) => assert.deepEqual(printed.split('\n'), ['24', 'True', '28']),
  ),
]
