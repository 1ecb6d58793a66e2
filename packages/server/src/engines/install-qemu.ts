import { existsSync } from 'node:fs'
import {
  buildGuestImage,
  currentGuestImage,
  type GuestImage,
} from '@sandbox/host/engines/microvm/image/guest-image'
import { isOfSeries } from '@sandbox/host/engines/microvm/image/kernel-source'
import { buildOpenReadOnly } from '../../../host/native/build.ts'
import type { Config } from '../config.ts'
import { runCommand } from '../setup/run-command.ts'
import type { EngineInstaller } from './installers.ts'
import { microvmDir, openReadOnlyPath, QEMU } from './microvm.ts'

/** The monitor, disks of guests, and what unpacks Debian's kernels. */
const PACKAGES = ['qemu-system-x86', 'e2fsprogs', 'lz4', 'xz-utils'] as const

type Say = (line: string) => void
type GuestConfig = Pick<Config, 'imagesDir' | 'guestKernel'>

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
  const version = /version (\S+)/.exec(await runCommand([QEMU, '--version']))?.[1] ?? ''
  return `${version} (${QEMU}) with ${image.kernel}`
}

/** Builds kernel and initramfs of guests unless some of today's sources, and of the kernel asked for, are there. */
export async function ensureGuestImage(config: GuestConfig, say: Say): Promise<string> {
  const image = currentGuestImage(microvmDir(config))
  if (image && isOfSeries(image.kernel, config.guestKernel)) return image.kernel
  return (await build(config, say)).kernel
}

/** Builds them of the kernel that apt serves today, unless that is there; keeps what there is when none can be had. */
export async function renewGuestImage(config: GuestConfig, say: Say): Promise<string> {
  const image = currentGuestImage(microvmDir(config))
  try {
    return (await build(config, say)).kernel
  } catch (error) {
    if (!image || !isOfSeries(image.kernel, config.guestKernel)) throw error
    say(`guests keep ${image.kernel}: ${(error as Error).message}`)
    return image.kernel
  }
}

const build = (config: GuestConfig, say: Say): Promise<GuestImage> =>
  buildGuestImage({ directory: microvmDir(config), kernelSeries: config.guestKernel, progress: say })

async function installPackages(say: Say): Promise<void> {
  const env = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' }
  say('apt-get update')
  await runCommand(['apt-get', 'update', '-q'], { env })
  say(`apt-get install ${PACKAGES.join(' ')}`)
  await runCommand(['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...PACKAGES], { env })
}
