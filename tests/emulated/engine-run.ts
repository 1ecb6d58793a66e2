import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { runCommand } from '../../packages/server/src/setup/run-command.ts'
import { partsOf, selectCases } from './inside/cases.ts'
import type { Order } from './inside/order.ts'
import { Machine } from './machine.ts'
import type { MachineDisks } from './machine-disks.ts'
import type { MachineImage } from './machine-image.ts'
import type { PartResult } from './parts-table.ts'

/** Parts of one engine, each in a machine that goes on from the same moment, after its host has opened, or in its own. */

export interface Report {
  event: string
  name?: string
  ms?: number
  /** Of a case that failed: sandboxes whose emulated processor was shut down. */
  shutDown?: readonly string[]
  [fact: string]: unknown
}

export interface EngineRun {
  engine: string
  monitor: string
  /** See ensureEmulator. */
  emulator: readonly string[]
  image: MachineImage
  disks: MachineDisks
  memoryMib: number
  /** For copies of the disk that is written on, memory of the machine, sockets. */
  dir: string
  /** Parts that are wanted, in this order; empty: all that the engine has. */
  parts: readonly string[]
  only: readonly string[]
  isShort: boolean
  onReport: (report: Report) => void
  onConsole: (line: string) => void
  say: (line: string) => void
}

/** What one action sees and has started. */
interface Watch {
  seen: (report: Report) => void
  machines: Machine[]
}

const OPENS_WITHIN_MS = 15 * 60_000
const PART_WITHIN_MS = 30 * 60_000
const SHORT = 'short'
/** Has cases for after a reboot. */
const REBOOT = 1
/**
 * With two, and guests in them, one sends the other interrupts, and emulation delivers some while the processor still
 * has state of a guest and must not be interrupted: the machine's kernel, or the guest, does not survive that.
 */
const PROCESSORS = { withGuests: 1, without: 2 }
/** As a shell says it. */
const SEGMENTATION_FAULT = 139
const TAIL_LENGTH = 4_000
/** A line of the console: the kernel of the emulated machine, not that of a guest in it, has given up. */
const PANIC = /^\[ *\d+\.\d+\] Kernel panic/

class KernelPanic extends Error {}

const engineTitle = (engine: string, monitor: string): string =>
  engine === 'microvm' ? `${engine}/${monitor}` : engine

/** A failed part does not keep the next one from its run. */
export async function runEngine(run: EngineRun): Promise<PartResult[]> {
  const { engine, monitor, dir, say } = run
  const title = engineTitle(engine, monitor)
  const parts = partsOf(engine, monitor)
  const wanted = run.parts.length === 0 ? parts : run.parts.filter((part) => parts.includes(part))
  const results: PartResult[] = []
  const add = (part: string, startMs: number, reports: readonly Report[]): void => {
    const count = (event: string): number => reports.filter((report) => report.event === event).length
    const seconds = (performance.now() - startMs) / 1000
    results.push({ engine: title, part, passed: count('passed'), failed: count('failed'), seconds })
  }
  const startMs = performance.now()
  say(`Booting the emulated machine for ${title}`)
  const kept = { memoryPath: join(dir, 'memory'), statePath: join(dir, 'state-of-memory') }
  if (run.isShort) {
    add(SHORT, startMs, await told(run, (watch) => bootAndRun(run, wanted, watch)))
    return results
  }
  try {
    add('open', startMs, await told(run, (watch) => bootAndKeep(run, kept, watch)))
    const isOpen = results[0]!.failed === 0
    for (const part of isOpen ? wanted : []) {
      const partMs = performance.now()
      say(`${title}: ${part}`)
      add(part, partMs, await told(run, (watch) => runPart(run, part, kept, watch)))
    }
  } finally {
    for (const path of Object.values(kept)) rmSync(path, { force: true })
  }
  return results
}

/**
 * What `action` reports. Whatever breaks it is one more failure, but for what emulation of virtualization now and then
 * breaks: the machine's kernel as a guest leaves its processor, and guests, whose processor meets a triple fault. Then
 * all is done once more, which a fault of our own making does not survive.
 */
async function told(run: EngineRun, action: (watch: Watch) => Promise<void>): Promise<Report[]> {
  for (let mayBreak = true; ; mayBreak = false) {
    const reports: Report[] = []
    const machines: Machine[] = []
    let accident: string | undefined
    const seen = (report: Report): void => {
      if (mayBreak && report.shutDown && report.shutDown.length > 0) {
        accident = `${report.name}: the emulated processor of ${report.shutDown.join(', ')} was shut down: ${report.error}`
        return
      }
      reports.push(report)
      run.onReport(report)
    }
    try {
      await action({ seen, machines })
    } catch (error) {
      if (error instanceof KernelPanic && mayBreak) accident = error.message
      else seen({ event: 'failed', name: 'the machine comes to its end', error: (error as Error).message })
    } finally {
      for (const machine of machines) machine.end()
    }
    if (accident === undefined) return reports
    run.say(`${accident}\nOnce more, from its beginning`)
  }
}

const order = ({ only, isShort }: EngineRun, parts: readonly string[]): Order => ({ parts, only, isShort })

/** All in one machine. */
async function bootAndRun(run: EngineRun, parts: readonly string[], watch: Watch): Promise<void> {
  await withState(run, run.disks.statePath, async (disks) => {
    const machine = await opened(run, disks, watch)
    await machine?.machine.tell(order(run, parts))
    await machine?.ended()
  })
}

interface KeptMachine {
  memoryPath: string
  statePath: string
}

async function bootAndKeep(run: EngineRun, kept: KeptMachine, watch: Watch): Promise<void> {
  await copyDisk(run.disks.statePath, kept.statePath)
  const machine = await opened(run, { ...run.disks, statePath: kept.statePath }, watch)
  await machine?.machine.keep(kept.memoryPath)
}

async function runPart(
  run: EngineRun,
  part: string,
  { memoryPath, statePath }: KeptMachine,
  watch: Watch,
): Promise<void> {
  await withState(run, statePath, async (disks) => {
    const first = start(run, disks, 0, watch, memoryPath)
    await first.machine.tell(order(run, [part]))
    await first.ended()
    const { engine, monitor } = run
    const later = selectCases({ engine, monitor, boot: REBOOT }, order(run, [part]))
    if (later.length === 0 || first.hasFailed()) return
    run.say('Booting it once more')
    await start(run, disks, REBOOT, watch).ended()
  })
}

/** With a copy of the disk that is written on. */
async function withState(
  { disks, dir }: EngineRun,
  from: string,
  action: (disks: MachineDisks) => Promise<void>,
): Promise<void> {
  const statePath = join(dir, 'state')
  try {
    await copyDisk(from, statePath)
    await action({ ...disks, statePath })
  } finally {
    rmSync(statePath, { force: true })
  }
}

const copyDisk = (from: string, to: string): Promise<string> =>
  runCommand(['cp', '--sparse=always', from, to])

interface Started {
  machine: Machine
  ready: Promise<void>
  hasFailed: () => boolean
  hasCrashedAtStart: () => boolean
  /** @throws Error when the program inside has not come to an end */
  ended: () => Promise<void>
}

/**
 * Once its host has opened, or undefined when a case of that failed. Emulation now and then makes the program inside
 * crash as it starts: then it is booted once more.
 */
async function opened(run: EngineRun, disks: MachineDisks, watch: Watch): Promise<Started | undefined> {
  for (const mayCrash of [true, false]) {
    const started = start(run, disks, 0, watch)
    const isOff = started.machine.off.then(() => true)
    if (!(await Promise.race([started.ready.then(() => false), isOff]))) return started
    if (started.hasCrashedAtStart() && mayCrash) {
      run.say('The program inside crashed before it began. Once more')
      continue
    }
    await started.ended()
    return undefined
  }
  return undefined
}

function start(
  run: EngineRun,
  disks: MachineDisks,
  boot: number,
  watch: Watch,
  memoryPath?: string,
): Started {
  const { engine, monitor, emulator, image, memoryMib, dir } = run
  const reports: Report[] = []
  const ready = Promise.withResolvers<void>()
  let tail = ''
  let hasPanicked = false
  const machine = new Machine({
    ...{ emulator, image, disks, memoryMib, dir, options: { engine, monitor, boot } },
    processors: engine === 'microvm' ? PROCESSORS.withGuests : PROCESSORS.without,
    ...(memoryPath === undefined ? {} : { memoryPath }),
    limitMs: memoryPath === undefined && !run.isShort ? OPENS_WITHIN_MS : PART_WITHIN_MS,
    onConsole: (line) => {
      tail = `${tail}${line}\n`.slice(-TAIL_LENGTH)
      hasPanicked ||= PANIC.test(line)
      run.onConsole(line)
    },
    onReport: (raw) => {
      const report = raw as Report
      reports.push(report)
      if (report.event === 'ready') ready.resolve()
      else watch.seen(report)
    },
  })
  watch.machines.push(machine)
  const has = (event: string): boolean => reports.some((report) => report.event === event)
  const status = (): unknown => reports.find(({ event }) => event === 'exit')?.status
  return {
    machine,
    ready: ready.promise,
    hasFailed: () => has('failed'),
    hasCrashedAtStart: () => status() === SEGMENTATION_FAULT && reports.length === 1,
    ended: async () => {
      try {
        await machine.off
      } catch (error) {
        throw new Error(`${(error as Error).message}:\n${tail}`)
      }
      if (hasPanicked) throw new KernelPanic(`The kernel of the machine panicked:\n${tail}`)
      if (status() !== 0 && !has('failed')) throw new Error(`the cases did not come to an end:\n${tail}`)
    },
  }
}
