import { loadConfig } from '../../packages/server/src/config.ts'
import { findRunsc } from '../../packages/server/src/engines/gvisor.ts'
import { qemuInstaller } from '../../packages/server/src/engines/install-qemu.ts'
import { QEMU } from '../../packages/server/src/engines/microvm.ts'
import { requireRuntime } from '../../packages/server/src/runtime.ts'

/** One engine that the suites run on. What an engine does differently on purpose is said here and nowhere else. */
export interface EngineUnderTest {
  readonly name: string
  /** What gets it, where it is not installed. */
  readonly missing: string | undefined
  /** Settings of the host besides the engine's name. */
  readonly settings: Readonly<Record<string, string>>
  /** Files of this machine that run sandboxes. */
  readonly programs: readonly string[]
  /** The guest has a kernel of its own: what it does to that one is no escape. */
  readonly hasOwnKernel: boolean
  /** What may be taken of the machine's memory besides a guest's own, and for moments while a greedy process ends. */
  readonly memoryReserveMib: number
  /** Whether sysinfo(2) tells of the sandbox's memory, from which virtual machines of languages choose their sizes. */
  readonly tellsMemory: boolean
  /** Titles of the suites that run on it; undefined: all. */
  readonly suites?: readonly string[]
}

const config = loadConfig()
const runsc = await findRunsc(config)

const shim = requireRuntime(config).shimPath

/** On any machine, tens of times slower than on one with KVM: its life is told more shortly in `qemu.test.ts`. */
export const emulatedQemu: EngineUnderTest = {
  name: 'microvm',
  missing: (await qemuInstaller.installed(config)) ? undefined : 'npm run engine -- install qemu',
  settings: { E2B_MICROVM_MONITOR: 'qemu' },
  programs: [QEMU, shim],
  hasOwnKernel: true,
  memoryReserveMib: 128,
  tellsMemory: true,
  suites: ['escape', 'network'],
}

export const enginesUnderTest: readonly EngineUnderTest[] = [
  {
    name: 'container',
    missing: undefined,
    settings: {},
    programs: ['/usr/bin/crun', shim],
    hasOwnKernel: false,
    memoryReserveMib: 128,
    tellsMemory: false,
  },
  {
    name: 'gvisor',
    missing: runsc ? undefined : 'npm run engine -- install gvisor',
    settings: {},
    programs: runsc ? [runsc.path, shim] : [],
    hasOwnKernel: false,
    memoryReserveMib: 320,
    tellsMemory: true,
  },
  emulatedQemu,
]
