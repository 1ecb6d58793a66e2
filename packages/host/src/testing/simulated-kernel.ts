import { expect } from 'vitest'
import { Admission } from '../cells/admission.ts'
import type { CellParts } from '../cells/cells.ts'
import { Journal } from '../cells/journal.ts'
import type { Engine, Instance, InstanceExit } from '../engines/engine.ts'
import { Engines } from '../engines/engines.ts'
import type { Slot } from '../slots/slots.ts'
import type { Upper } from '../storage/uppers.ts'
import { plainEngine, usable } from './plain-engine.ts'

/** A machine for simulations of the state machine: what exists in it outlives the daemons that act on it. */

/** What exists whether or not a daemon lives. */
export class Kernel {
  readonly instances = new Map<number, { instance: Instance; exit: (exit: InstanceExit) => void }>()
  readonly uppers = new Set<string>()
  readonly slotsInUse = new Set<number>()
  nextUpper = 0
  nextPid = 1
}

export type Step = (label: string) => Promise<void>

/** Parts of one daemon over a kernel; every operation passes through `step`, which may reorder or never return. */
export function partsOver(kernel: Kernel, dir: string, step: Step): CellParts {
  const slotAt = (index: number): Slot => ({
    index,
    netnsPath: '',
    address: `127.0.0.${index + 2}`,
    uidBase: index,
    cgroupPaths: [],
    sysfsPath: '',
  })
  const engine: Engine = {
    ...plainEngine,
    async start({ sandboxId, slot, upper }) {
      await step('engine.start')
      expect(kernel.instances.has(slot.index)).toBe(false)
      expect(kernel.uppers.has(upper.id)).toBe(true)
      const { promise, resolve } = Promise.withResolvers<InstanceExit>()
      const instance = { sandboxId, slot, upper, initPid: kernel.nextPid++, exited: promise }
      const exit = (how: InstanceExit): void => {
        kernel.instances.delete(slot.index)
        resolve(how)
      }
      kernel.instances.set(slot.index, { instance, exit })
      await step('engine.started')
      return instance
    },
    async capture(instance, { leaveRunning, upperCopyPath, whileStill }) {
      await step('engine.capture')
      if (!kernel.instances.has(instance.slot.index)) throw new Error('nothing to capture')
      if (upperCopyPath) kernel.uppers.add(upperCopyPath)
      await step('engine.copied')
      await whileStill?.({ sizeBytes: 1 })
      await step('engine.captured')
      if (!leaveRunning) kernel.instances.get(instance.slot.index)?.exit({ status: -9, outOfMemory: false })
      return { sizeBytes: 1 }
    },
    freeze: () => step('engine.freeze'),
    thaw: () => step('engine.thaw'),
    async stop({ slot }) {
      await step('engine.stop')
      kernel.instances.get(slot.index)?.exit({ status: -9, outOfMemory: false })
    },
    layOutWritten: () => step('engine.layOutWritten'),
    async adopt({ slot }) {
      await step('engine.adopt')
      return kernel.instances.get(slot.index)?.instance
    },
    usage: async () => ({ cpuUsec: 0, memoryBytes: 0, memoryCacheBytes: 0, pids: 1, oomKills: 0 }),
  }
  return {
    admission: new Admission({ maxSandboxes: 6, memoryOvercommit: 100, memoryReserveMib: 1 }, () => ({
      totalMib: 1000,
      availableMib: 1000,
    })),
    engines: new Engines([{ engine, report: usable }]),
    journal: new Journal(dir, 'boot'),
    slots: {
      async claim() {
        await step('slots.claim')
        let index = 0
        while (kernel.slotsInUse.has(index)) index++
        kernel.slotsInUse.add(index)
        return slotAt(index)
      },
      setPolicy: () => {},
      replacePolicy: async () => {},
      release: (slot) => {
        expect(kernel.instances.has(slot.index)).toBe(false)
        kernel.slotsInUse.delete(slot.index)
      },
    },
    uppers: {
      assertRoom: () => {},
      take(capMib) {
        const id = `u${kernel.nextUpper++}`
        kernel.uppers.add(id)
        return { id, path: '', capMib }
      },
      async clone(base, capMib) {
        await step('uppers.clone')
        expect(kernel.uppers.has(base.id)).toBe(true)
        return this.take(capMib)
      },
      async snapshot(upper) {
        await step('uppers.snapshot')
        return this.take(upper.capMib)
      },
      nameCopy({ capMib }) {
        const id = `u${kernel.nextUpper++}`
        return { id, path: id, capMib }
      },
      has: ({ id }) => kernel.uppers.has(id),
      sync: () => step('uppers.sync'),
      recorded: () => {},
      usageBytes: () => 0,
      release(upper: Upper) {
        kernel.uppers.delete(upper.id)
      },
    },
    nowMs: () => 0,
    // Nobody listens there: agents are silent here.
    agentPort: 1,
  }
}
