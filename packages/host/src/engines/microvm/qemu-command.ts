/** The machine as QEMU's command line. It is the layout that memory fits: a change of it counts `QEMU_LAYOUT` up. */
import { join } from 'node:path'
import { guestMac } from '../../slots/slots.ts'
import { LISTEN_FD } from '../shim.ts'
import type { MachinePlan } from './monitor.ts'
import { SEEN_AT } from './qemu-root.ts'

export const QEMU_LAYOUT = 2
/** First of the slots on the root bus that drives have; the last is the chipset's own. */
const FIRST_DRIVE_SLOT = 4
const LAST_DRIVE_SLOT = 30
export const QEMU_MAX_DRIVES = LAST_DRIVE_SLOT - FIRST_DRIVE_SLOT + 1

/** Without firmware tables for what is not there, and without what no guest of ours uses. */
const MACHINE =
  'q35,sata=off,smbus=off,usb=off,vmport=off,smm=off,graphics=off,mem-merge=off,dump-guest-core=off'
const SANDBOX = 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'
/** Translated code of one guest; without a bound it grows to a quarter of its memory. */
const TRANSLATION_CACHE_MIB = 128
const CONSOLE_KEPT = '64K'

export interface QemuFiles {
  kernel: string
  initramfs: string
  memory: string
  /** Device state: where a restore listens for it, and where a snapshot writes it. */
  state: string
  stateOut: string
  preload: string
  drive: (index: number) => string
}

/** By the directory that QEMU sees them in, `SEEN_AT`, or by this machine's name for it. */
export const qemuFiles = (directory: string): QemuFiles => ({
  kernel: join(directory, 'kernel'),
  initramfs: join(directory, 'initramfs'),
  memory: join(directory, 'memory'),
  state: join(directory, 'state'),
  stateOut: join(directory, 'state.out'),
  preload: join(directory, 'open-read-only.so'),
  drive: (index) => join(directory, `drive${index}`),
})

export interface QemuOptions {
  path: string
  accelerator: 'kvm' | 'tcg'
  /** Version 8.2 and later map a read-only file of memory privately by themselves. */
  mapsReadOnly: boolean
}

export function qemuCommand(options: QemuOptions, plan: MachinePlan): string[] {
  const files = qemuFiles(SEEN_AT)
  return [
    // Nobody on this machine afterwards: the slot's first id, no group, no capability, and no way to get any.
    ...['setpriv', `--reuid=${plan.slot.uidBase}`, `--regid=${plan.slot.uidBase}`, '--clear-groups'],
    ...['--no-new-privs', '--bounding-set=-all', '--inh-caps=-all', '--'],
    ...[options.path, '-sandbox', SANDBOX],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot', '-name', 'sandbox'],
    ...['-chardev', `socket,id=control,fd=${LISTEN_FD},server=on,wait=off`],
    ...['-mon', 'chardev=control,mode=control'],
    ...['-machine', `${MACHINE},memory-backend=ram`, ...processor(options.accelerator)],
    ...['-smp', String(plan.vcpuCount), '-m', `${plan.memoryMib}M`],
    ...['-object', memoryBackend(options, plan, files)],
    ...['-chardev', `ringbuf,id=console,size=${CONSOLE_KEPT}`, '-serial', 'chardev:console'],
    ...(plan.tap === undefined ? [] : networkWords(plan.tap)),
    ...['-object', 'rng-random,id=rng,filename=/dev/urandom', '-device', 'virtio-rng-pci,rng=rng,addr=3'],
    ...['-device', 'vmgenid,guid=auto'],
    ...plan.drives.flatMap((drive, index) => driveWords(files.drive(index), index, drive.readOnly)),
    ...(plan.memoryDir === undefined ? bootWords(files, plan.kernelArguments) : RESTORE_WORDS),
  ]
}

/** Device state is saved without the configuration that a migration between machines would compare. */
const RESTORE_WORDS = ['-global', 'migration.send-configuration=off', '-S', '-incoming', 'defer']

/** It stands still until it is told to go, so that nothing happens before it is known to be there. */
const bootWords = (files: QemuFiles, kernelArguments: string): string[] => [
  ...['-S', '-kernel', files.kernel, '-initrd', files.initramfs],
  ...['-append', `console=ttyS0 reboot=t panic=-1 quiet loglevel=3 random.trust_cpu=on ${kernelArguments}`],
]

const networkWords = (tap: string): string[] => [
  ...['-netdev', `tap,id=net,ifname=${tap},script=no,downscript=no,vhost=off`],
  ...['-device', `virtio-net-pci,netdev=net,mac=${guestMac},romfile=,addr=2`],
]

/** Machines within machines would be a second wall of KVM's that guests could attack, with more holes in its past. */
const NOT_NESTED = '-vmx,-svm'

const processor = (accelerator: 'kvm' | 'tcg'): string[] =>
  accelerator === 'kvm'
    ? ['-accel', 'kvm', '-cpu', `host,${NOT_NESTED}`]
    : ['-accel', `tcg,thread=multi,tb-size=${TRANSLATION_CACHE_MIB}`, '-cpu', `max,${NOT_NESTED}`]

/** Private: what the guest writes never reaches the file, which other machines map as well. */
function memoryBackend({ mapsReadOnly }: QemuOptions, plan: MachinePlan, files: QemuFiles): string {
  const readOnly = plan.memoryDir !== undefined && mapsReadOnly ? ',readonly=on,rom=off' : ''
  return `memory-backend-file,id=ram,size=${plan.memoryMib}M,share=off,mem-path=${escaped(files.memory)}${readOnly}`
}

function driveWords(path: string, index: number, readOnly: boolean): string[] {
  const access = readOnly ? 'readonly=on' : 'discard=unmap'
  return [
    ...['-drive', `if=none,id=drive${index},format=raw,file=${escaped(path)},${access}`],
    ...['-device', `virtio-blk-pci,drive=drive${index},addr=${(FIRST_DRIVE_SLOT + index).toString(16)}`],
  ]
}

/** A comma separates options unless it is doubled. */
const escaped = (path: string): string => path.replaceAll(',', ',,')
