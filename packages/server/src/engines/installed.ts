import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Engine, EngineReport } from '@sandbox/host/engines/engine'
import { probeEach } from '@sandbox/host/engines/engines'
import { CgroupRoot } from '@sandbox/host/linux/cgroup-root'
import type { EngineParts } from '@sandbox/host/machine'
import { prepareRunDir, removeRunDir } from '@sandbox/host/run-dir'
import { LayerStore } from '@sandbox/host/storage/layers'
import { UpperStore } from '@sandbox/host/storage/uppers'
import type { Config } from '../config.ts'
import type { Runtime } from '../runtime.ts'
import { openContainerEngine } from './container.ts'
import { openGvisorEngine } from './gvisor.ts'
import { openMicrovmEngine } from './microvm.ts'

const MIB_PER_GIB = 1024

/** The engines that are installed on this machine, strongest first. */
export async function openInstalledEngines(
  config: Config,
  runtime: Runtime,
  parts: EngineParts,
): Promise<Engine[]> {
  const microvm = openMicrovmEngine(config, runtime, parts)
  const gvisor = await openGvisorEngine(config, runtime, parts)
  return [...(microvm ? [microvm] : []), ...(gvisor ? [gvisor] : []), openContainerEngine(runtime, parts)]
}

/** Names that no server uses, so that a probe can run beside one. */
const PROBE_INSTANCE = 'e2bprb'

/** Boots something in each installed engine; leaves nothing. */
export async function probeEngines(
  config: Config,
  runtime: Runtime,
): Promise<{ name: string; report: EngineReport }[]> {
  const runDir = `${config.runDir}-probe`
  const file = join(config.stateDir, 'probe.btrfs')
  await using opened = new AsyncDisposableStack()
  opened.defer(() => rmSync(file, { force: true }))
  opened.defer(() => removeRunDir(runDir))
  prepareRunDir(runDir)
  const layersDir = join(config.imagesDir, 'layers')
  const layers = new LayerStore({ layersDir, mountsDir: join(runDir, 'layers') })
  const cgroups = new CgroupRoot({ instance: PROBE_INSTANCE })
  opened.defer(() => cgroups.remove())
  cgroups.prepare()
  const mountPoint = join(runDir, 'uppers')
  const uppers = await UpperStore.open({ file, mountPoint, sizeMib: MIB_PER_GIB })
  opened.defer(() => uppers.close())
  const spareUidBase = config.uidBase - 65_536
  const parts = { runDir, layers, uppers, cgroups, spareUidBase }
  const probed = await probeEach(await openInstalledEngines(config, runtime, parts))
  return probed.map(({ engine, report }) => ({ name: engine.name, report }))
}
