import type { EngineName } from '@sandbox/host/engines/engine'
import type { Config } from '../config.ts'

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
