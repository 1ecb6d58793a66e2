import { execFileSync } from 'node:child_process'
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'

interface Names {
  instance: string
  stateDir: string
  runDir: string
}

/** How many kernel objects and files of one instance exist now. Equal counts before and after = nothing leaked. */
export interface Inventory {
  sandboxProcesses: number
  namespaces: number
  veths: number
  /** Root file systems of sandboxes. */
  roots: number
  cgroups: number
  rules: number
  journalEntries: number
}

const lines = (command: string, args: string[]): string[] =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
    .split('\n')
    .filter(Boolean)

/** Processes in a user namespace other than this one, whose root id lies in the instance's range. */
function sandboxProcesses(instance: string): number {
  return globSync(`/sys/fs/cgroup/{*/,}${instance}/*/cgroup.procs`)
    .filter((path) => !path.includes('/unified/') || existsSync('/sys/fs/cgroup/cgroup.controllers'))
    .filter((path, _index, all) => path.startsWith(join(all[0]!, '../../../')))
    .map((path) => readFileSync(path, 'utf8').split('\n').filter(Boolean).length)
    .reduce((sum, count) => sum + count, 0)
}

function cgroups(instance: string): number {
  return globSync(`/sys/fs/cgroup/{*/,}${instance}/*/cgroup.procs`).length
}

function rules(instance: string): number {
  try {
    return lines('nft', ['list', 'table', 'inet', instance]).length
  } catch {
    return 0
  }
}

/** Counts what belongs to an instance. */
export function takeInventory({ instance, stateDir, runDir }: Names): Inventory {
  const journal = join(stateDir, 'journal')
  return {
    sandboxProcesses: sandboxProcesses(instance),
    namespaces: existsSync('/run/netns')
      ? readdirSync('/run/netns').filter((name) => name.startsWith(`${instance}-`)).length
      : 0,
    veths: lines('ip', ['-o', 'link', 'show', 'type', 'veth']).filter((line) =>
      new RegExp(`^\\d+: ${instance}\\d+h[@:]`).test(line),
    ).length,
    roots: readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(` ${runDir}/`) && line.includes(' - overlay ')).length,
    cgroups: cgroups(instance),
    rules: rules(instance),
    journalEntries: existsSync(journal) ? readdirSync(journal, { recursive: true }).length : 0,
  }
}
