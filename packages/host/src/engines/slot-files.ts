import { join } from 'node:path'

/** Files of a slot in which its shim says how the sandbox does. */
export const shimFiles = (slotDir: string) => ({
  exit: join(slotDir, 'exit'),
  started: join(slotDir, 'started'),
})

/** Files of a slot whose sandbox an OCI runtime starts from a bundle. */
export const bundleFiles = (slotDir: string) => ({
  ...shimFiles(slotDir),
  config: join(slotDir, 'config.json'),
  log: join(slotDir, 'engine.log'),
  pid: join(slotDir, 'init.pid'),
})

export type ShimFiles = ReturnType<typeof shimFiles>
