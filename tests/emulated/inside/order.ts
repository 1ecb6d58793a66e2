/** What the program outside asks of the one in the machine: by the kernel's command line, then by a line of the console. */

export interface MachineFacts {
  engine: string
  /** Of the engine `microvm`. */
  monitor: string
  /** Of a longer run: how often the machine has been booted with this state before. */
  boot: number
}

/** Given when the host has opened; a machine that is booted once more needs none. */
export interface Order {
  parts: readonly string[]
  /** Names of cases; empty runs all. */
  only: readonly string[]
  /** The essential cases alone. */
  isShort: boolean
}
