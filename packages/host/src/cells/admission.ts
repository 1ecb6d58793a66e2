import { readFileSync } from 'node:fs'
import type { Limits } from '../engines/engine.ts'
import { HostError } from '../host-error.ts'

export interface AdmissionOptions {
  /** Sandboxes at once, pooled ones and builds included. */
  maxSandboxes: number
  /** Sum of the memory limits of all sandboxes, as a multiple of the machine's memory. Clones share most pages. */
  memoryOvercommit: number
  /** Starts are refused while the machine has less than this available. */
  memoryReserveMib: number
}

export interface MachineMemory {
  totalMib: number
  availableMib: number
}

/** What one sandbox takes of the machine's room until it is released. */
export interface Reservation {
  release(): void
}

/** Decides whether the machine has room for one more, before anything is made. */
export class Admission {
  readonly #options: AdmissionOptions
  readonly #memory: () => MachineMemory
  #count = 0
  #reservedMib = 0
  #cpuCount = 0

  constructor(options: AdmissionOptions, memory: () => MachineMemory = readMachineMemory) {
    this.#options = options
    this.#memory = memory
  }

  get count(): number {
    return this.#count
  }

  /** Sums of what those who hold a place may use. */
  get allocated(): { cpuCount: number; memoryMib: number } {
    return { cpuCount: this.#cpuCount, memoryMib: this.#reservedMib }
  }

  /** True when the pool should give memory back rather than take more. */
  isTight(): boolean {
    const { totalMib, availableMib } = this.#memory()
    return availableMib < 2 * this.#options.memoryReserveMib + totalMib * 0.05
  }

  /** @throws HostError noRoom, with the limit that was hit */
  reserve(limits: Limits): Reservation {
    const { maxSandboxes, memoryOvercommit, memoryReserveMib } = this.#options
    if (this.#count >= maxSandboxes) {
      throw new HostError('noRoom', `this host runs its maximum of ${maxSandboxes} sandboxes`)
    }
    const { totalMib, availableMib } = this.#memory()
    if (availableMib < memoryReserveMib) {
      throw new HostError(
        'noRoom',
        `this host has ${availableMib} MiB of memory left and keeps ${memoryReserveMib}`,
      )
    }
    if (this.#reservedMib + limits.memoryMib > totalMib * memoryOvercommit) {
      throw new HostError(
        'noRoom',
        `memory limits of all sandboxes would exceed ${memoryOvercommit} times the machine's`,
      )
    }
    return this.#take(limits)
  }

  /** For what runs already: adopted sandboxes are never refused. */
  recognise(limits: Limits): Reservation {
    return this.#take(limits)
  }

  #take(limits: Limits): Reservation {
    this.#count++
    this.#reservedMib += limits.memoryMib
    this.#cpuCount += limits.cpuCount
    let held = true
    return {
      release: () => {
        if (!held) return
        held = false
        this.#count--
        this.#reservedMib -= limits.memoryMib
        this.#cpuCount -= limits.cpuCount
      },
    }
  }
}

export function readMachineMemory(): MachineMemory {
  const text = readFileSync('/proc/meminfo', 'latin1')
  const mib = (name: string): number => {
    const found = new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(text)
    return Math.floor(Number(found?.[1] ?? 0) / 1024)
  }
  return { totalMib: mib('MemTotal'), availableMib: mib('MemAvailable') }
}
