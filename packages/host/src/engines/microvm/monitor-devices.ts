import { chmodSync, existsSync, mkdirSync } from 'node:fs'
import { basename, join } from 'node:path'
import { checked, libcFunction } from '../../linux/libc.ts'
import { MS_NOEXEC, MS_NOSUID, mount } from '../../linux/mount.ts'
import { mountsUnder } from '../../linux/mount-table.ts'

const mknodCall = libcFunction('mknod', 'int', ['str', 'uint', 'ulong'])
const S_IFCHR = 0o020000
const OPEN_TO_ALL = 0o666

/** Path, major, minor. */
const DEVICES = [
  ['/dev/kvm', 10, 232],
  ['/dev/net/tun', 10, 200],
] as const

/**
 * Devices that a monitor opens as nobody, whatever rights this machine gives them: nodes of ours lie over them in the
 * mount namespace of a monitor, and nobody else gets to them. What the machine does not have is left out. Idempotent.
 * @returns what the shim binds
 */
export function prepareMonitorDevices(directory: string): { from: string; to: string }[] {
  const devices = DEVICES.filter(([path]) => existsSync(path))
  const binds = devices.map(([path]) => ({ from: join(directory, basename(path)), to: path }))
  mkdirSync(directory, { recursive: true, mode: 0o700 })
  if (mountsUnder(directory).length === 0)
    mount('dev', directory, 'tmpfs', MS_NOSUID | MS_NOEXEC, 'size=16k,mode=700')
  for (const [path, major, minor] of devices) {
    const node = join(directory, basename(path))
    // A device may have come since, as with a module that was loaded.
    if (existsSync(node)) continue
    checked(mknodCall(node, S_IFCHR | OPEN_TO_ALL, (major << 8) | minor), 'mknod', node)
    chmodSync(node, OPEN_TO_ALL)
  }
  return binds
}
