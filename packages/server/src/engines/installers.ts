import type { EngineName } from '@sandbox/host/engines/engine'
import type { Config } from '../config.ts'
import { firecrackerInstaller } from './install-firecracker.ts'
import { gvisorInstaller } from './install-gvisor.ts'
import { qemuInstaller } from './install-qemu.ts'

/** What `engine install <name>` can bring to this machine; nothing is installed without being asked for. */
export interface EngineInstaller {
  /** What the operator types. */
  readonly name: string
  /** The engine that it makes usable. */
  readonly engine: EngineName
  /** One line: what it is and where it comes from. */
  readonly doc: string
  /** Version and place of what is there already. */
  installed(config: Config): Promise<string | undefined>
  /**
   * Installs it, or leaves alone what is there.
   * @param say receives a line about what is going on
   * @returns version and place
   * @throws Error that says what is missing
   */
  install(config: Config, say: (line: string) => void): Promise<string>
}

export const installers: readonly EngineInstaller[] = [firecrackerInstaller, qemuInstaller, gvisorInstaller]

/** What an operator types. */
export const installCommand = ({ name }: EngineInstaller): string => `npm run engine -- install ${name}`

/** What brings each engine that does not come with the set-up; the first of its installers. */
export const installCommands: Readonly<Partial<Record<EngineName, string>>> = Object.fromEntries(
  [...installers].reverse().map((installer) => [installer.engine, installCommand(installer)]),
)
