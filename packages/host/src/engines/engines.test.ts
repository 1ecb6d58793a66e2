import { expect, test } from 'vitest'
import { SystemError } from '../linux/libc.ts'
import type { Engine, EngineName } from './engine.ts'
import { Engines, probeEach } from './engines.ts'

function engineNamed(name: EngineName, { usable = true }: { usable?: boolean } = {}): Engine {
  return {
    name,
    canCapture: true,
    writtenIn: 'upper',
    probe: async () => ({ usable, version: '1', detail: 'no device', remedy: 'Load the module' }),
    hostClass: () => `${name}-class`,
  } as Partial<Engine> as Engine
}

const opened = async (engines: Engine[], preferred?: EngineName): Promise<Engines> =>
  new Engines(await probeEach(engines, preferred === undefined), preferred)

test('the strongest usable one serves, and one that a template asks for', async () => {
  const engines = await opened([
    engineNamed('microvm', { usable: false }),
    engineNamed('gvisor'),
    engineNamed('container'),
  ])
  expect(engines.for(undefined).name).toBe('gvisor')
  expect(engines.for('container').name).toBe('container')
  expect(() => engines.for('microvm')).toThrow(
    "engine 'microvm' is not usable on this host; it has gvisor, container",
  )
  expect(engines.hostClasses).toEqual(['gvisor-class', 'container-class'])
  // What it once started is still its to stop.
  expect(engines.named('microvm')?.name).toBe('microvm')
})

test('the operator names one, and is told what is missing when it does not boot', async () => {
  const installed = [engineNamed('microvm', { usable: false }), engineNamed('container')]
  expect((await opened(installed, 'container')).for(undefined).name).toBe('container')
  await expect(opened(installed, 'microvm')).rejects.toThrow('microvm: no device. Load the module')
  await expect(opened(installed, 'gvisor')).rejects.toThrow("engine 'gvisor' is not installed")
})

test('a probe that throws leaves the other engines to serve', async () => {
  const broken: Engine = {
    ...engineNamed('gvisor'),
    probe: async () => {
      throw new Error('no such file')
    },
  }
  const engines = await opened([broken, engineNamed('container')])
  expect(engines.for(undefined).name).toBe('container')
  expect(engines.reports[0]?.report.detail).toBe('its probe failed: no such file')
})

test('a host whose disks are full comes up to end what fills them, and starts nothing', async () => {
  const full: Engine = {
    ...engineNamed('container'),
    probe: async () => {
      throw new SystemError(28, 'ioctl')
    },
  }
  const engines = await opened([full], 'container')
  expect([engines.serving, engines.named('container')?.name]).toEqual([undefined, 'container'])
  expect(() => engines.for('container')).toThrow(expect.objectContaining({ kind: 'noRoom' }))
})

test('a host whose disks were full serves once there is room', async () => {
  let isFull = true
  let probes = 0
  const full: Engine = {
    ...engineNamed('container'),
    probe: async () => {
      probes++
      if (isFull) throw new SystemError(28, 'ioctl')
      return engineNamed('container').probe()
    },
  }
  const engines = await opened([engineNamed('microvm', { usable: false }), full])
  await engines.probeAgain()
  expect(engines.serving).toBeUndefined()
  isFull = false
  await engines.probeAgain()
  expect([engines.serving?.name, engines.hostClasses]).toEqual(['container', ['container-class']])
  await engines.probeAgain()
  expect(probes).toBe(3)
})

const fullDisk = (name: EngineName, words = false): Engine => ({
  ...engineNamed(name),
  probe: async () => {
    throw words ? new Error('mkfs: No space left on device') : new SystemError(122, 'ioctl')
  },
})

test.each([true, false])('full disks give nobody a weaker wall (said in words: %s)', async (words) => {
  const engines = await opened([fullDisk('microvm', words), engineNamed('gvisor')])
  expect(engines.serving).toBeUndefined()
  expect(() => engines.for('auto')).toThrow(expect.objectContaining({ kind: 'noRoom' }))
  expect(() => engines.for('microvm')).toThrow(expect.objectContaining({ kind: 'noRoom' }))
  expect(engines.for('gvisor').name).toBe('gvisor')
  expect(() => engines.for('container')).toThrow(expect.objectContaining({ kind: 'unsupported' }))
  expect((await opened([engineNamed('gvisor'), fullDisk('container')])).serving?.name).toBe('gvisor')
})

test('a fault that passes chooses no weaker wall, and one that stays is told', async () => {
  let probes = 0
  const busy: Engine = {
    ...engineNamed('microvm'),
    probe: () => engineNamed('microvm', { usable: ++probes > 1 }).probe(),
  }
  const settled = await opened([busy, engineNamed('container')])
  expect([settled.serving?.name, settled.passedOver]).toEqual(['microvm', []])
  const broken = await opened([engineNamed('microvm', { usable: false }), engineNamed('container')])
  expect(broken.passedOver).toMatchObject([{ name: 'microvm', report: { detail: 'no device' } }])
  expect((await opened([engineNamed('gvisor'), engineNamed('container')], 'container')).passedOver).toEqual(
    [],
  )
})

test('what ends everything needs no usable engine', async () => {
  const probed = await probeEach([engineNamed('container', { usable: false })])
  expect(() => new Engines(probed)).toThrow('no device')
  expect(new Engines(probed, undefined, true).named('container')?.name).toBe('container')
})
