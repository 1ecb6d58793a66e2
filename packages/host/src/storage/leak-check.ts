/** For tests: what a folder of mounts and loop-mounted files may leave behind, which is nothing. */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as wait } from 'node:timers/promises'
import { mountsUnder } from '../linux/mount-table.ts'

const GOES_WITHIN_MS = 10_000
const COPIES_GO_WITHIN_MS = 60_000

/**
 * Mounts below `dir` and files in it that loop devices still hold. A device goes with the last copy of its mount,
 * and a process that is just making itself a mount namespace has copies of all, as the tests beside this one do: what
 * goes has 10 s from when nobody has such copies, which is waited for up to a minute.
 */
export async function leftovers(dir: string): Promise<string[]> {
  const giveUpAt = Date.now() + COPIES_GO_WITHIN_MS
  for (let deadline = Date.now() + GOES_WITHIN_MS; ; ) {
    const mounts = mountsUnder(dir).map((entry) => entry.target)
    const left = [...mounts, ...loopFiles().filter((file) => file.startsWith(`${dir}/`))]
    if (left.length === 0 || Date.now() > deadline) return left
    await wait(50)
    if (mounts.length === 0 && Date.now() < giveUpAt && areCopied(dir)) deadline = Date.now() + GOES_WITHIN_MS
  }
}

/** Whether another process sees mounts below `dir`, in a namespace of its own: this one has none. */
function areCopied(dir: string): boolean {
  return readdirSync('/proc').some((pid) => {
    if (!/^\d+$/.test(pid)) return false
    try {
      return readFileSync(`/proc/${pid}/mountinfo`, 'utf8').includes(` ${dir}/`)
    } catch {
      return false
    }
  })
}

function loopFiles(): string[] {
  return readdirSync('/sys/block').flatMap((device) => {
    try {
      return [readFileSync(`/sys/block/${device}/loop/backing_file`, 'utf8').trimEnd()]
    } catch {
      return []
    }
  })
}
