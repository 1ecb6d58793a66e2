import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { Config } from '../../packages/server/src/config.ts'
import { takeInventory } from '../system/harness/leftovers.ts'

/** What the kernel and the disk hold of one instance, and what they should hold. */

export interface Finding {
  readonly what: string
  readonly expected: string
  readonly actual: string
}

/** What the API says exists. */
export interface ApiView {
  readonly running: number
  readonly paused: number
  readonly snapshots: number
}

interface Entry {
  slot: { index: number }
  occupant: string
}

const namesIn = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir) : [])

const journalEntries = ({ stateDir }: Config): Entry[] =>
  namesIn(join(stateDir, 'journal')).map((name) => {
    // Gone between the listing and the reading, or half of a replacement: the next look tells.
    try {
      return JSON.parse(readFileSync(join(stateDir, 'journal', name), 'utf8')) as Entry
    } catch {
      return { slot: { index: -1 }, occupant: `unreadable ${name}` }
    }
  })

const ascending = (slots: Iterable<number>): number[] => [...new Set(slots)].sort((a, b) => a - b)

/** Slots whose cgroups have processes. */
const slotsWithBusyCgroups = ({ instance }: Config): number[] =>
  ascending(
    globSync(`/sys/fs/cgroup/{*/,}${instance}/*/**/cgroup.procs`)
      .filter((path) => readFileSync(path, 'utf8').trim() !== '')
      .map((path) => Number(new RegExp(`/${instance}/(\\d+)/`).exec(path)?.[1])),
  )

interface ProcessView {
  pid: number
  uid: number
  command: string
}

function processes(): ProcessView[] {
  return globSync('/proc/[0-9]*/status').flatMap((path) => {
    try {
      const uid = Number(/^Uid:\s+(\d+)/m.exec(readFileSync(path, 'utf8'))?.[1])
      const command = readFileSync(join(dirname(path), 'cmdline'), 'utf8').replaceAll('\0', ' ')
      return [{ pid: Number(basename(dirname(path))), uid, command }]
    } catch {
      return []
    }
  })
}

const IDS_PER_SLOT = 65_536
const IDS_PER_INSTANCE = 0x0100_0000

/** Slots whose ids some process has. */
const slotsWithProcesses = ({ uidBase }: Config): number[] =>
  ascending(
    processes()
      .filter(({ uid }) => uid >= uidBase && uid < uidBase + IDS_PER_INSTANCE)
      .map(({ uid }) => Math.floor((uid - uidBase) / IDS_PER_SLOT)),
  )

const loopDevices = ({ stateDir }: Config): string[] =>
  readdirSync('/sys/block').filter((name) => {
    const path = `/sys/block/${name}/loop/backing_file`
    return existsSync(path) && readFileSync(path, 'utf8').startsWith(`${stateDir}/`)
  })

const mounts = ({ runDir }: Config): string[] =>
  readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(` ${runDir} `) || line.includes(` ${runDir}/`))

const finding = (what: string, expected: unknown, actual: unknown): Finding => ({
  what,
  expected: JSON.stringify(expected),
  actual: JSON.stringify(actual),
})

const isWrong = ({ expected, actual }: Finding): boolean => expected !== actual

/** Uppers that belong to neither something that runs nor something that is kept: those made ahead. */
export function spareUppers(config: Config): number {
  const kept = namesIn(join(config.stateDir, 'snapshots')).filter((name) => !name.startsWith('.'))
  return namesIn(join(config.runDir, 'uppers')).length - kept.length - journalEntries(config).length
}

/** Network slots that nothing occupies: those made ahead. */
const spareSlots = (config: Config): number =>
  takeInventory(config).namespaces - journalEntries(config).length

export interface Spare {
  readonly uppers: number
  /** Most that may stay ready after load. */
  readonly maxSlots: number
}

/** Where the machine differs from what the API says while the server runs. */
export function differences(config: Config, view: ApiView, spare: Spare): Finding[] {
  const entries = journalEntries(config)
  const slots = ascending(entries.map(({ slot }) => slot.index))
  const pooled = entries.filter(({ occupant }) => occupant === 'pooled').length
  const inventory = takeInventory(config)
  const snapshotDir = join(config.stateDir, 'snapshots')
  const kept = namesIn(snapshotDir).filter((name) => !name.startsWith('.'))
  return [
    finding('journal entries', view.running + pooled, entries.length),
    // Sandboxes mount theirs in mount namespaces of their own.
    finding('roots among the mounts of the machine', 0, inventory.roots),
    finding('slots with processes', slots, slotsWithProcesses(config)),
    finding('slots with processes in their cgroups', slots, slotsWithBusyCgroups(config)),
    finding('veths per network namespace', inventory.namespaces, inventory.veths),
    finding('idle network slots within bounds', true, spareSlots(config) <= spare.maxSlots),
    finding('kept snapshots', view.paused + view.snapshots, kept.length),
    finding('unfinished snapshots', [], namesIn(join(snapshotDir, '.drafts'))),
    finding('spare uppers', spare.uppers, spareUppers(config)),
    finding('loop devices', 1, loopDevices(config).length),
  ].filter(isWrong)
}

/** What is left of the instance when its server has ended with all of its sandboxes. */
export function leftovers(config: Config): Finding[] {
  const inventory = takeInventory(config)
  const ofInstance = processes().filter(({ command }) => command.includes(`${config.runDir}/`))
  return [
    ...Object.entries(inventory).map(([what, count]) => finding(what, 0, count)),
    finding('slots with processes', [], slotsWithProcesses(config)),
    finding(
      'processes of its sandboxes',
      [],
      ofInstance.map(({ pid, command }) => `${pid} ${command}`),
    ),
    finding('mounts', [], mounts(config)),
    finding('loop devices', [], loopDevices(config)),
    finding('snapshots', [], globSync(join(config.stateDir, 'snapshots/**/*'))),
    finding('cgroup directories', [], globSync(`/sys/fs/cgroup/{*/,}${config.instance}`)),
  ].filter(isWrong)
}
