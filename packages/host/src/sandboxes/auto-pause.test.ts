import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { afterAll, expect, test } from 'vitest'
import { openCell } from '../cells/cells.ts'
import { HostError } from '../host-error.ts'
import { KeptSnapshots } from '../snapshots/kept-snapshots.ts'
import type { StartRequest } from '../starting/start.ts'
import { plainConfig, plainLimits } from '../testing/plain-template.ts'
import { Kernel, partsOver } from '../testing/simulated-kernel.ts'
import type { SandboxEvent } from './events.ts'
import { Sandboxes } from './sandboxes.ts'

const log = pino({ level: 'silent' })
const dir = mkdtempSync(join(tmpdir(), 'auto-pause-'))
afterAll(() => rmSync(dir, { recursive: true, force: true }))

/** A clock that the test moves; what is due then fires. */
class MovedClock {
  #nowMs = 0
  #due: { atMs: number; fire: () => void } | undefined
  readonly nowMs = (): number => this.#nowMs
  readonly after = (ms: number, fire: () => void): (() => void) => {
    const due = { atMs: this.#nowMs + ms, fire }
    this.#due = due
    return () => {
      if (this.#due === due) this.#due = undefined
    }
  }

  async advance(ms: number): Promise<void> {
    this.#nowMs += ms
    const due = this.#due
    if (due && due.atMs <= this.#nowMs) {
      this.#due = undefined
      due.fire()
    }
    for (let turn = 0; turn < 10; turn++) await new Promise((resolve) => setImmediate(resolve))
  }
}

const request: StartRequest = {
  sandboxId: 'ia',
  snapshotId: 's',
  templateId: 't',
  limits: {},
  envVars: {},
  envdAccessToken: undefined,
  network: { internet: true },
  endAtMs: 1_000,
  onEnd: 'pause',
  skipPool: true,
}
/** One sandbox `ia` runs in it; every pause fails with `refuse`. */
async function withFailingPauses(clock: MovedClock, refuse: () => HostError): Promise<Sandboxes> {
  const ownDir = mkdtempSync(join(dir, 'daemon-'))
  const cells = partsOver(new Kernel(), ownDir, async () => {})
  const sandboxes = new Sandboxes({
    start: async ({ sandboxId, snapshotId, templateId, network, endAtMs, onEnd }, phases) => {
      const plan = {
        occupant: 'sandbox' as const,
        sandboxId,
        snapshotId,
        templateId,
        layers: [],
        limits: plainLimits,
      }
      const engine = cells.engines.for(undefined)
      const rest = { engine, memoryDir: undefined, network, endAtMs, onEnd, config: plainConfig }
      return { cell: await openCell(cells, { ...plan, ...rest }, phases), fromPool: false }
    },
    keep: () => Promise.reject(refuse()),
    kept: new KeptSnapshots(join(ownDir, 'kept'), cells.engines, cells.uppers),
    log,
    clock,
  })
  await sandboxes.start(request)
  return sandboxes
}

test('a pause at the end of a life says that it begins, and when it fails, ever less often, that it is tried again', async () => {
  const clock = new MovedClock()
  let attempts = 0
  const sandboxes = await withFailingPauses(clock, () => {
    attempts++
    return new HostError('noRoom', 'the disk is full')
  })
  const seen: SandboxEvent[] = []
  const publish = sandboxes.events.publish.bind(sandboxes.events)
  sandboxes.events.publish = (event) => {
    seen.push(event)
    publish(event)
  }
  await clock.advance(1_000)
  expect(seen).toEqual([
    { kind: 'pausing', sandboxId: 'ia' },
    { kind: 'pauseFailed', sandboxId: 'ia', reason: 'the disk is full', retryAtMs: 11_000 },
  ])
  expect(sandboxes.list().map(({ state }) => state)).toEqual(['running'])
  const waits: number[] = []
  for (let n = 0; n < 7; n++) {
    const before = attempts
    let waitedMs = 0
    while (attempts === before) {
      await clock.advance(10_000)
      waitedMs += 10_000
    }
    waits.push(waitedMs / 1000)
  }
  expect(waits).toEqual([10, 20, 40, 80, 160, 300, 300])

  sandboxes.setEnd('ia', clock.nowMs() + 5_000, false)
  await clock.advance(5_000)
  expect(seen.at(-1)).toMatchObject({ kind: 'pauseFailed', retryAtMs: clock.nowMs() + 10_000 })
  await sandboxes.close(false)
})

test('a pause that was asked for and fails says so without a time', async () => {
  const sandboxes = await withFailingPauses(new MovedClock(), () => new HostError('unavailable', 'no answer'))
  const abort = new AbortController()
  const events = sandboxes.events.watch(abort.signal)
  await expect(sandboxes.pause('ia', { memory: true, needsAgent: true })).rejects.toThrow('no answer')
  const read = async (): Promise<unknown> => (await events.next()).value
  expect(await read()).toEqual({ kind: 'synced' })
  expect(await read()).toEqual({ kind: 'pausing', sandboxId: 'ia' })
  expect(await read()).toEqual({
    kind: 'pauseFailed',
    sandboxId: 'ia',
    reason: 'no answer',
    retryAtMs: undefined,
  })
  abort.abort()
  await sandboxes.close(false)
})
