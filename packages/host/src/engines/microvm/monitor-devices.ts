import { existsSync } from 'node:fs'
import { basename, join } from 'node:path'
import { type CharacterDevice, makeDeviceDirectory } from '../device-directory.ts'

/** By their paths. */
const DEVICES: readonly CharacterDevice[] = [
  ['/dev/kvm', 10, 232],
  ['/dev/net/tun', 10, 200],
  ['/dev/null', 1, 3],
  ['/dev/urandom', 1, 9],
]

/**
 * Devices that a monitor opens as nobody, whatever rights this machine gives them: nodes of ours lie over them in the
 * mount namespace of a monitor, and nobody else gets to them. What the machine does not have is left out; it may come
 * later, as with a module that is loaded. Idempotent.
 * @returns what the shim binds
 */
export function prepareMonitorDevices(directory: string): { from: string; to: string }[] {
  const devices = DEVICES.filter(([path]) => existsSync(path))
  const nodes = devices.map(([path, major, minor]): CharacterDevice => [basename(path), major, minor])
  makeDeviceDirectory(directory, 'size=16k,mode=700', nodes)
  return devices.map(([path]) => ({ from: join(directory, basename(path)), to: path }))
}
