import {
  buildGuestImage,
  currentGuestImage,
  type GuestImage,
} from '@sandbox/host/engines/microvm/image/guest-image'
import { isOfSeries } from '@sandbox/host/engines/microvm/image/kernel-source'
import type { Config } from '../config.ts'
import { microvmDir } from './microvm.ts'

type Say = (line: string) => void
type GuestConfig = Pick<Config, 'imagesDir' | 'guestKernel'>

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
