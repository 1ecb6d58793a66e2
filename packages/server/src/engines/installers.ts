import type { EngineName } from '@sandbox/host/engines/engine'
import { firecrackerInstaller } from './install-firecracker.ts'
import { gvisorInstaller } from './install-gvisor.ts'
import { qemuInstaller } from './install-qemu.ts'
import type { EngineInstaller } from './installer.ts'

export const installers: readonly EngineInstaller[] = [firecrackerInstaller, qemuInstaller, gvisorInstaller]

/** What an operator types. */
export const installCommand = ({ name }: EngineInstaller): string => `npm run engine -- install ${name}`

/** What brings each engine that does not come with the set-up; the first of its installers. */
export const installCommands: Readonly<Partial<Record<EngineName, string>>> = Object.fromEntries(
  [...installers].reverse().map((installer) => [installer.engine, installCommand(installer)]),
)
