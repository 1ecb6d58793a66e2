import type { Engine, EngineReport } from '../engines/engine.ts'

export const usable: EngineReport = { usable: true, version: '1', detail: '', remedy: '' }

/** For tests: what an engine says of itself where nothing depends on it. */
export const plainEngine = {
  name: 'container',
  canCapture: true,
  writtenIn: 'upper',
  probe: async () => usable,
  prepare: async () => {},
  hostClass: () => 'test',
  memoryClass: () => 'test',
  restores: () => true,
  rename: async (instance, sandboxId) => ({ ...instance, sandboxId }),
} satisfies Partial<Engine>
