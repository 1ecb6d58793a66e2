/** For tests: what a folder of mounts and loop-mounted files may leave behind, which is nothing. */
import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as wait } from 'node:timers/promises'
import { mountsUnder } from '../linux/mount-table.ts'

const deadlineMs = 10_000

/**
 * Mounts below `dir` and files in it that loop devices still hold. A device goes with the last copy of its mount,
 * and a process that is just making itself a mount namespace has copies of all: this waits for that, up to 10 s.
 */
export async function leftovers(dir: string): Promise<string[]> {
  const deadline = Date.now() + deadlineMs
  for (;;) {
    const mounts = mountsUnder(dir).map((entry) => entry.target)
    const left = [...mounts, ...loopFiles().filter((file) => file.startsWith(`${dir}/`))]
    if (left.length === 0 || Date.now() > deadline) return left
    await wait(50)
  }
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
