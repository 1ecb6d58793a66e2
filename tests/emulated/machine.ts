import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import type { MachineDisks } from './machine-disks.ts'
import type { MachineImage } from './machine-image.ts'

/**
 * A whole machine in software: an AMD processor with working virtualization, a Debian kernel with cgroup v2 and
 * `/dev/kvm`, in it our host role. Nothing of the real machine's kernel takes part, so what passes here does not
 * depend on it. It is about fifteen times slower than the processor below; its timings say nothing.
 */

export interface MachineOptions {
  image: MachineImage
  disks: MachineDisks
  memoryMib: number
  /** Passed to the program inside. */
  options: Readonly<Record<string, unknown>>
  /** Each line of the console that is no report. */
  onConsole: (line: string) => void
  /** Each report of the program inside. */
  onReport: (report: Record<string, unknown>) => void
  limitMs: number
}

/** Before a line of the console that is a report of the program inside, in JSON. */
const REPORT_PREFIX = '@@ '

/** Boots it and answers when it is off. @throws Error when it does not end within `limitMs` */
export async function runMachine(options: MachineOptions): Promise<void> {
  const child = spawn('qemu-system-x86_64', qemuArguments(options), { stdio: ['ignore', 'pipe', 'pipe'] })
  const timer = setTimeout(() => child.kill('SIGKILL'), options.limitMs)
  const ended = new Promise<{ code: number | null; signal: string | null }>((resolve, reject) => {
    child.on('error', (error) => reject(new Error(`qemu-system-x86_64 cannot be run: ${error.message}`)))
    child.on('close', (code, signal) => resolve({ code, signal }))
  })
  readConsole(child, options)
  createInterface({ input: child.stderr }).on('line', options.onConsole)
  try {
    const { code, signal } = await ended
    if (signal) throw new Error(`the emulated machine was not off after ${options.limitMs / 1000} s`)
    if (code !== 0) throw new Error(`QEMU ended with ${code}`)
  } finally {
    clearTimeout(timer)
  }
}

function readConsole(
  child: ChildProcessByStdio<null, Readable, Readable>,
  { onConsole, onReport }: MachineOptions,
): void {
  createInterface({ input: child.stdout }).on('line', (raw) => {
    const line = raw.replace(/\r$/, '')
    const at = line.indexOf(REPORT_PREFIX)
    if (at < 0) return onConsole(line)
    try {
      onReport(JSON.parse(line.slice(at + REPORT_PREFIX.length)) as Record<string, unknown>)
    } catch {
      onConsole(line)
    }
  })
}

function qemuArguments({ image, disks, memoryMib, options }: MachineOptions): string[] {
  const encoded = Buffer.from(JSON.stringify(options)).toString('base64url')
  const drive = (file: string, more: string): string[] => [
    '-drive',
    `file=${file},format=raw,if=virtio,${more}`,
  ]
  return [
    ...['-accel', 'tcg,thread=multi', '-machine', 'q35', '-cpu', 'EPYC,+svm,+npt', '-smp', '2'],
    ...['-m', String(memoryMib), '-nographic', '-no-reboot', '-nic', 'none', '-serial', 'mon:stdio'],
    ...['-kernel', image.kernelPath, '-initrd', image.initramfsPath],
    ...['-append', `console=ttyS0 panic=-1 quiet loglevel=4 rdinit=/init e2b.options=${encoded}`],
    ...drive(image.rootPath, 'readonly=on'),
    ...drive(disks.repoPath, 'readonly=on'),
    ...drive(disks.imagesPath, 'readonly=on'),
    ...drive(disks.statePath, 'cache=unsafe,discard=unmap'),
  ]
}
