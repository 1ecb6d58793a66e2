import type { HostUnderTest } from './host-under-test.ts'

/** What is put to the test. The cases of one part build on each other, and all on the first of all. */
export interface Case {
  part: string
  name: string
  /** Part of the short run. */
  isEssential?: boolean
  /** Undefined: every engine. */
  engine?: string
  /** Of the engine `microvm`; undefined: every one. */
  monitor?: string
  /** In which boot of the machine it runs. */
  boot: number
  /** Answers facts for the report. @throws when it does not hold */
  run: (host: HostUnderTest) => Promise<Record<string, unknown>>
}

/** Of a case that is about Firecracker. */
export const ofFirecracker = { engine: 'microvm', monitor: 'firecracker', boot: 0 } as const

/** Of a case that is about engines whose guests have no kernel of their own. */
export const withoutGuestKernel = [
  { engine: 'container', boot: 0 },
  { engine: 'gvisor', boot: 0 },
] as const
