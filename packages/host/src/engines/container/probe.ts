import type { EngineReport } from '../engine.ts'
export interface ProbeOptions {
  devicesPath: string
}
export async function probeContainer(_: ProbeOptions): Promise<EngineReport> {
  return { usable: true, version: '', detail: '', remedy: '' }
}
