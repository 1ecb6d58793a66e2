import assert from 'node:assert/strict'
import { type BuildHost, type BuiltTemplate, buildOn, comparable } from '../../engines/built-layers.ts'
import type { Case } from './case.ts'
import type { HostUnderTest } from './host-under-test.ts'

/** Steps of builds run behind the wall of the template. */

const PART = 'builds'
const OF_MACHINES = { part: PART, engine: 'microvm', boot: 0 } as const
const RUN = 'emulated'
const STEPS = 3
let inMachine: BuiltTemplate

const from = ({ client, config, baseSnapshotId }: HostUnderTest): BuildHost => ({
  client,
  imagesDir: config.imagesDir,
  baseSnapshotId,
})

const cachedSteps = ({ lines }: BuiltTemplate): number =>
  lines.filter((line) => line.startsWith('CACHED ')).length

export const buildCases: Case[] = [
  {
    ...OF_MACHINES,
    name: 'steps of a template for machines run in machines, one upon the other',
    async run(host) {
      inMachine = await buildOn(from(host), { buildId: 'machine', isolation: 'microvm', run: RUN })
      assert.ok(inMachine.lines.includes('in a machine'), inMachine.lines.join('\n'))
      assert.ok(inMachine.lines.includes('seen'))
      return { layers: inMachine.layers.map(({ length }) => length) }
    },
  },
  {
    ...OF_MACHINES,
    name: 'what they wrote is found by whoever starts the template',
    async run(host) {
      const sandbox = await host.start('machine')
      const found = await host.output(
        sandbox.address,
        'cd /opt/built; stat -c "%a %u %g %h" file; cat renamed/inside replaced/new; ls gone 2>&1 | grep -c No',
      )
      assert.equal(found, '4751 1000 1001 2\ninside\nnew\n1')
      await host.stop(sandbox)
      return {}
    },
  },
  {
    ...OF_MACHINES,
    name: 'a template for containers finds the steps done, or makes the same layers itself',
    async run(host) {
      const request = { isolation: 'container', run: RUN } as const
      assert.equal(cachedSteps(await buildOn(from(host), { ...request, buildId: 'cached' })), STEPS)
      const inContainer = await buildOn(from(host), { ...request, buildId: 'container', force: true })
      assert.equal(cachedSteps(inContainer), 0)
      assert.ok(inContainer.lines.includes('in a container'))
      assert.equal(inMachine.layers.length, STEPS)
      for (const [at, layer] of inContainer.layers.entries())
        assert.deepEqual(comparable(inMachine.layers[at]!), comparable(layer), `layer ${at}`)
      return { files: inContainer.layers.map(({ length }) => length) }
    },
  },
]
