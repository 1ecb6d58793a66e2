import { closeSync, existsSync, openSync } from 'node:fs'
import { join } from 'node:path'

/** The parts of KVM that drive a processor's virtualization. */
const PROCESSOR_MODULES = ['kvm_intel', 'kvm_amd']
const REMEDY = 'load kvm_intel or kvm_amd, or turn virtualisation on in the firmware'

export interface KvmFault {
  detail: string
  remedy: string
}

/**
 * Why the KVM of this machine runs no guest of ours, as far as that is known without a guest: undefined says that one
 * may be booted to find out. A device that opens may be that of another KVM, for guests with kernels of its own; in such
 * a one ours would stand still.
 * @param root where files of the machine are
 */
export function kvmFault(root = '/'): KvmFault | undefined {
  try {
    closeSync(openSync(join(root, 'dev/kvm'), 'r+'))
  } catch {
    return { detail: 'there is no /dev/kvm', remedy: REMEDY }
  }
  const isProcessors =
    process.arch !== 'x64' || PROCESSOR_MODULES.some((name) => existsSync(join(root, 'sys/module', name)))
  return isProcessors
    ? undefined
    : { detail: `/dev/kvm is there, but neither ${PROCESSOR_MODULES.join(' nor ')}`, remedy: REMEDY }
}
