import { closeSync, openSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { tryLock } from '@sandbox/host/linux/file-lock'

const ASK_AGAIN_MS = 1_000

/** Waits until no other set-up runs. The lock ends with the process, however that ends. */
export async function takeSetupLock(path: string): Promise<() => void> {
  const fd = openSync(path, 'a')
  for (let waiting = false; !tryLock(fd); waiting = true) {
    if (!waiting) process.stderr.write('Another set-up is running on this machine; waiting for it …\n')
    await pause(ASK_AGAIN_MS)
  }
  return () => closeSync(fd)
}
