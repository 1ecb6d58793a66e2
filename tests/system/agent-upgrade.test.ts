import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { LayerStore } from '../../packages/host/src/storage/layers.ts'
import { loadConfig } from '../../packages/server/src/config.ts'
import type { Runtime } from '../../packages/server/src/runtime.ts'
import { shell, TestHost } from './harness/test-host.ts'

/** The platform is upgraded while sandboxes run and are paused: their memory holds the agent from before. */

const host = new TestHost(2)
const images = mkdtempSync(join(tmpdir(), 'e2b-images-'))
const runtimePath = join(images, 'runtime', 'runtime.json')
const start = () => host.start({ E2B_IMAGES_DIR: images })

/** Images of this test's own, the large ones shared with the machine's by hard links. */
function copyImages(): void {
  const { imagesDir } = loadConfig()
  for (const name of ['layers', 'runtime']) execFileSync('cp', ['-al', join(imagesDir, name), images])
  execFileSync('mkdir', [join(images, 'snapshots')])
  execFileSync('cp', ['-al', join(imagesDir, 'snapshots', host.snapshotId), join(images, 'snapshots')])
}

/** Another agent's layer: what is there, and one file more. */
async function upgradeAgent(): Promise<void> {
  const runtime = JSON.parse(readFileSync(runtimePath, 'utf8')) as Runtime
  const work = mkdtempSync(join(tmpdir(), 'e2b-agent-'))
  const layers = new LayerStore({ layersDir: join(images, 'layers'), mountsDir: join(work, 'mounts') })
  try {
    const tree = join(work, 'tree')
    execFileSync('cp', ['-a', layers.mount(runtime.agentLayer.digest), tree])
    writeFileSync(join(tree, '.e2b', 'upgraded'), 'yes')
    const { digest } = await layers.importDirectory(tree)
    // The file is one with the machine's own: it is replaced, not written.
    rmSync(runtimePath)
    writeFileSync(runtimePath, JSON.stringify({ ...runtime, agentLayer: { digest, inputs: 'test' } }))
  } finally {
    layers.unmountAll()
    rmSync(work, { recursive: true })
  }
}

const isUpgraded = (address: string) => shell(address, 'test -e /.e2b/upgraded && echo yes || echo no')
const pause = async (id: string) =>
  (await host.client.pause({ sandboxId: id, memory: true })).paused!.snapshotId
const resume = (id: string, snapshotId: string, changes: Record<string, unknown> = {}) =>
  host.run(id, { snapshotId, consumeSnapshot: true, ...changes })

beforeAll(async () => {
  copyImages()
  await start()
})
afterAll(async () => {
  try {
    await host.dispose()
  } finally {
    rmSync(images, { recursive: true })
  }
})

it('a sandbox paused before an upgrade of the agent resumes with its memory, one that ran is paused and resumed after it', async () => {
  const hold = 'setsid -f sleep 1000; echo written > /root/file'
  for (const id of ['paused', 'rebooted', 'ran']) await shell(await host.run(id), hold)
  const paused = await pause('paused')
  const rebooted = await pause('rebooted')
  await host.kill()
  await upgradeAgent()
  await start()

  const back = await resume('paused', paused)
  expect(await shell(back, 'pgrep -x sleep >/dev/null && cat /root/file')).toBe('written')
  expect(await isUpgraded(back)).toBe('no')
  const again = await resume('paused', await pause('paused'))
  expect(await shell(again, 'pgrep -x sleep >/dev/null && cat /root/file')).toBe('written')

  const ran = await resume('ran', await pause('ran'))
  expect(await shell(ran, 'pgrep -x sleep >/dev/null && cat /root/file')).toBe('written')
  expect(await isUpgraded(ran)).toBe('no')

  const booted = await resume('rebooted', rebooted, { memory: false })
  expect(await shell(booted, 'cat /root/file; pgrep -x sleep || echo gone')).toBe('written\ngone')
  expect(await isUpgraded(booted)).toBe('yes')

  const fresh = await host.run('fresh')
  expect(await isUpgraded(fresh)).toBe('yes')
  await Promise.all(
    ['paused', 'ran', 'rebooted', 'fresh'].map((sandboxId) => host.client.stop({ sandboxId })),
  )
})
