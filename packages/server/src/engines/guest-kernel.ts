import { currentGuestImage } from '@sandbox/host/engines/microvm/image/guest-image'
import { kernelName, servedKernel } from '@sandbox/host/engines/microvm/image/kernel-source'
import type { Config } from '../config.ts'
import type { Requirement } from '../setup/requirements.ts'
import { installCommand, installers } from './installers.ts'
import { microvmDir } from './microvm.ts'

/** Of those installers that build a guest image, the one that needs least. */
const INSTALLER = 'qemu'

/** Whether guests have the kernel that apt would give them today; undefined where nothing of microVMs is installed. */
export async function checkGuestKernel(
  config: Pick<Config, 'imagesDir' | 'guestKernel'>,
): Promise<Requirement | undefined> {
  const image = currentGuestImage(microvmDir(config))
  if (!image) return undefined
  try {
    return verdict(image.kernel, kernelName(await servedKernel(config.guestKernel)))
  } catch (error) {
    return { ...verdict(image.kernel, image.kernel), detail: `${image.kernel}; ${(error as Error).message}` }
  }
}

/** @param inUse and `served`: see `kernelName` */
export function verdict(inUse: string, served: string): Requirement {
  const isNewest = inUse === served
  const installer = installers.find(({ name }) => name === INSTALLER)!
  return {
    name: 'microvm: guest kernel',
    ok: isNewest,
    required: false,
    detail: isNewest ? inUse : `${inUse}; apt serves ${served}`,
    remedy: isNewest ? '' : installCommand(installer),
  }
}
