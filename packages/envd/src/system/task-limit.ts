import { writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** The group (cgroup v2) that a sandbox is in where its kernel has cgroups that belong to the sandbox alone. */
export const TASK_LIMIT_FILE = 'sys/fs/cgroup/sandbox/pids.max'

/**
 * Tells the sandbox's own kernel how many processes and threads all users of it may have together. Elsewhere the limit
 * is the machine's, which nobody in the sandbox can write.
 */
export function limitTasks(rootDir: string, count: number): void {
  try {
    writeFileSync(join(rootDir, TASK_LIMIT_FILE), String(count), { flag: 'r+' })
  } catch {
    // There is no such group, or it is the machine's.
  }
}
