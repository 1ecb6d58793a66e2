import { join } from 'node:path'

/** The files of one slot that belong to its sandbox. */
export function instanceFiles(slotDir: string) {
  return {
    config: join(slotDir, 'config.json'),
    exit: join(slotDir, 'exit'),
    log: join(slotDir, 'engine.log'),
    netns: join(slotDir, 'netns'),
    pid: join(slotDir, 'init.pid'),
    runsc: join(slotDir, 'runsc.json'),
    runtime: join(slotDir, 'runsc'),
    started: join(slotDir, 'started'),
  }
}

export type InstanceFiles = ReturnType<typeof instanceFiles>
