import { existsSync } from 'node:fs'
import { currentGuestImage } from '@sandbox/host/engines/microvm/image/guest-image'
import { buildOpenReadOnly } from '../../../host/native/build.ts'
import type { Config } from '../config.ts'
import { runCommand } from '../setup/run-command.ts'
import { renewGuestImage } from './guest-image.ts'
import type { EngineInstaller } from './installer.ts'
import { microvmDir, openReadOnlyPath, QEMU } from './microvm.ts'

/** The monitor, disks of guests, and what unpacks Debian's kernels. */
const PACKAGES = ['qemu-system-x86', 'e2fsprogs', 'lz4', 'xz-utils'] as const

/** QEMU from the distribution's packages, and the guest image that every monitor boots. */
export const qemuInstaller: EngineInstaller = {
  name: 'qemu',
  engine: 'microvm',
  doc: "QEMU of the distribution, and a guest kernel from Debian's cloud kernel package",
  installed: describeInstalled,
  async install(config, say) {
    if (!(await describeInstalled(config))) await installPackages(say)
    await renewGuestImage(config, say)
    await buildOpenReadOnly({ outDir: microvmDir(config) })
    const installed = await describeInstalled(config)
    if (!installed) throw new Error(`there is no ${QEMU} after the installation`)
    return installed
  },
}

async function describeInstalled(config: Config): Promise<string | undefined> {
  const image = currentGuestImage(microvmDir(config))
  if (!image || !existsSync(QEMU) || !existsSync(openReadOnlyPath(config))) return undefined
  // One that cannot be run is not installed: an installation puts it right.
  const said = await runCommand([QEMU, '--version']).catch(() => '')
  const version = /version (\S+)/.exec(said)?.[1]
  if (version === undefined) return undefined
  return `${version} (${QEMU}) with ${image.kernel}`
}

async function installPackages(say: (line: string) => void): Promise<void> {
  const env = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' }
  say('apt-get update')
  await runCommand(['apt-get', 'update', '-q'], { env })
  say(`apt-get install ${PACKAGES.join(' ')}`)
  await runCommand(['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...PACKAGES], { env })
}
