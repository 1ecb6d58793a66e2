/**
 * What Firecracker's guide to production hosts asks of a machine that runs microVMs of strangers, one verdict each:
 * https://github.com/firecracker-microvm/firecracker/blob/main/docs/prod-host-setup.md. None of it keeps microVMs from
 * running; each that fails is a side channel or a surprise that the operator should know of.
 */
import { closeSync, existsSync, openSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Requirement } from './requirements.ts'

const VULNERABILITIES = 'sys/devices/system/cpu/vulnerabilities'
/** These have verdicts of their own. */
const TOLD_APART = ['meltdown', 'spectre_v1', 'spectre_v2', 'l1tf', 'spec_store_bypass']
const GRUB = 'in GRUB_CMDLINE_LINUX of /etc/default/grub, then update-grub and reboot'

interface Verdict {
  ok: boolean
  detail: string
  remedy: string
}

/** @param rootDir where `proc`, `sys` and `dev` are; tests have their own */
export function checkMicrovmRequirements(rootDir = '/'): Requirement[] {
  const machine = new MachineFacts(rootDir)
  const verdicts: Record<string, Verdict> = {
    'KVM module': kvmModule(machine),
    '/dev/kvm': kvmDevice(machine),
    'nested virtualisation': nesting(machine),
    SMT: smt(machine),
    KSM: ksm(machine),
    swap: swap(machine),
    'page-table isolation': mitigated(machine, 'meltdown', 'pti=on'),
    'branch prediction': branchPrediction(machine),
    'L1 terminal fault': mitigated(machine, 'l1tf', 'l1tf=full,force'),
    'speculative stores': mitigated(machine, 'spec_store_bypass', 'spec_store_bypass_disable=seccomp'),
    'other CPU flaws': otherFlaws(machine),
    microcode: microcode(machine),
    'huge pages of KVM': kvmHugePages(machine),
    'transparent huge pages': transparentHugePages(machine),
    'memory with ECC': errorCorrection(machine),
    'cgroup v2': cgroupVersion(machine),
  }
  return Object.entries(verdicts).map(([name, verdict]) => ({
    name: `microvm: ${name}`,
    required: false,
    ...verdict,
  }))
}

class MachineFacts {
  readonly #rootDir: string

  constructor(rootDir: string) {
    this.#rootDir = rootDir
  }

  path(path: string): string {
    return join(this.#rootDir, path)
  }

  has(path: string): boolean {
    return existsSync(this.path(path))
  }

  /** Trimmed content; undefined when this kernel has no such file. */
  read(path: string): string | undefined {
    try {
      return readFileSync(this.path(path), 'utf8').trim()
    } catch {
      return undefined
    }
  }

  list(path: string): string[] {
    return this.has(path) ? readdirSync(this.path(path)).toSorted() : []
  }
}

function kvmModule(machine: MachineFacts): Verdict {
  const loaded = ['kvm_intel', 'kvm_amd'].find((name) => machine.has(`sys/module/${name}`))
  const remedy =
    'Turn virtualisation on in the firmware (or nested virtualisation in the hypervisor): modprobe kvm_intel'
  return { ok: loaded !== undefined, detail: loaded ?? 'neither kvm_intel nor kvm_amd is loaded', remedy }
}

function kvmDevice(machine: MachineFacts): Verdict {
  const remedy = 'Run as root, and give a container of this host the device: --device /dev/kvm'
  try {
    closeSync(openSync(machine.path('dev/kvm'), 'r+'))
    return { ok: true, detail: 'may be opened', remedy }
  } catch (error) {
    return { ok: false, detail: `cannot be opened: ${(error as NodeJS.ErrnoException).code}`, remedy }
  }
}

/** Beside Firecracker's guide: it passes on what KVM offers, while our QEMU guests have none of it. */
function nesting(machine: MachineFacts): Verdict {
  const module = ['kvm_intel', 'kvm_amd'].find((name) => machine.has(`sys/module/${name}`)) ?? 'kvm_intel'
  const state = machine.read(`sys/module/${module}/parameters/nested`) ?? 'N'
  const ok = ['N', '0'].includes(state)
  return {
    ok,
    detail: ok ? 'off' : 'guests of Firecracker may run machines of their own',
    remedy: `Less of KVM to attack: echo 'options ${module} nested=0' > /etc/modprobe.d/kvm-nested.conf, then reboot.`,
  }
}

function smt(machine: MachineFacts): Verdict {
  const control = machine.read('sys/devices/system/cpu/smt/control') ?? 'notimplemented'
  const ok = ['off', 'forceoff', 'notsupported', 'notimplemented'].includes(control)
  return { ok, detail: control, remedy: `Threads of one core leak to each other: nosmt=force ${GRUB}.` }
}

function ksm(machine: MachineFacts): Verdict {
  const ok = (machine.read('sys/kernel/mm/ksm/run') ?? '0') === '0'
  return { ok, detail: ok ? 'off' : 'merges equal pages', remedy: 'echo 2 > /sys/kernel/mm/ksm/run' }
}

function swap(machine: MachineFacts): Verdict {
  const devices = (machine.read('proc/swaps') ?? '').split('\n').slice(1)
  const ok = devices.length === 0
  const detail = ok ? 'none' : devices.map((line) => line.split(/\s/)[0]).join(', ')
  return {
    ok,
    detail,
    remedy: 'Memory of guests stays on the disk: swapoff -a, and take it out of /etc/fstab.',
  }
}

function mitigated(machine: MachineFacts, flaw: string, parameter: string): Verdict {
  const state = machine.read(`${VULNERABILITIES}/${flaw}`) ?? 'unknown to this kernel'
  const ok = /^(Not affected|Mitigation)/.test(state)
  return { ok, detail: state, remedy: `${parameter} ${GRUB}.` }
}

function branchPrediction(machine: MachineFacts): Verdict {
  const one = mitigated(machine, 'spectre_v1', 'mitigations=auto')
  const two = mitigated(machine, 'spectre_v2', 'spectre_v2=on')
  return one.ok ? two : one
}

function otherFlaws(machine: MachineFacts): Verdict {
  const open = machine
    .list(VULNERABILITIES)
    .filter((name) => !TOLD_APART.includes(name))
    .filter((name) => machine.read(`${VULNERABILITIES}/${name}`)?.startsWith('Vulnerable'))
  const detail = open.length === 0 ? 'none open' : `open: ${open.join(', ')}`
  return { ok: open.length === 0, detail, remedy: `mitigations=auto,nosmt ${GRUB}; current microcode.` }
}

function microcode(machine: MachineFacts): Verdict {
  const lacking = machine
    .list(VULNERABILITIES)
    .filter((name) => /no microcode/i.test(machine.read(`${VULNERABILITIES}/${name}`) ?? ''))
  const version =
    /^microcode\s*:\s*(\S+)/m.exec(machine.read('proc/cpuinfo') ?? '')?.[1] ?? 'of unknown version'
  const ok = lacking.length === 0
  const detail = ok ? version : `${version} is too old for ${lacking.join(', ')}`
  return { ok, detail, remedy: 'apt-get install intel-microcode (or amd64-microcode), and reboot.' }
}

/** Without it a guest can halt some Intel processors. */
function kvmHugePages(machine: MachineFacts): Verdict {
  const state = machine.read('sys/module/kvm/parameters/nx_huge_pages')
  const isAffected = !/^Not affected/.test(machine.read(`${VULNERABILITIES}/itlb_multihit`) ?? 'Not affected')
  const ok = !isAffected || state === 'Y' || state === 'auto'
  const detail = isAffected ? `not executable: ${state ?? 'KVM is not loaded'}` : 'processor not affected'
  return { ok, detail, remedy: `kvm.nx_huge_pages=auto ${GRUB}.` }
}

function transparentHugePages(machine: MachineFacts): Verdict {
  const state = machine.read('sys/kernel/mm/transparent_hugepage/enabled') ?? '[never]'
  const mode = /\[(\w+)\]/.exec(state)?.[1] ?? state
  return {
    ok: mode !== 'always',
    detail: mode,
    remedy:
      'A clone that writes a byte takes 2 MiB: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled',
  }
}

function errorCorrection(machine: MachineFacts): Verdict {
  const controllers = machine.list('sys/devices/system/edac/mc').filter((name) => /^mc\d+$/.test(name))
  const ok = controllers.length > 0
  const detail = ok ? `${controllers.length} controllers report errors` : 'no controller reports errors'
  return {
    ok,
    detail,
    remedy: 'Memory with ECC and target row refresh keeps one guest from flipping bits of another.',
  }
}

function cgroupVersion(machine: MachineFacts): Verdict {
  const ok = machine.has('sys/fs/cgroup/cgroup.controllers')
  const detail = ok ? 'in use' : 'version 1 or mixed'
  return { ok, detail, remedy: `systemd.unified_cgroup_hierarchy=1 ${GRUB}.` }
}
