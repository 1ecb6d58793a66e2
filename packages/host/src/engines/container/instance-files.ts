import { join } from 'node:path'

/** The files of one slot that belong to its sandbox. */
export function instanceFiles(slotDir: string) {
  return {
    config: join(slotDir, 'config.json'),
    cowImages: join(slotDir, 'cow-images'),
    exit: join(slotDir, 'exit'),
    log: join(slotDir, 'engine.log'),
    memory: join(slotDir, 'memory'),
    ownImages: join(slotDir, 'own-images'),
    pid: join(slotDir, 'init.pid'),
    runtime: join(slotDir, 'crun'),
    started: join(slotDir, 'started'),
  }
}

export type InstanceFiles = ReturnType<typeof instanceFiles>
