/** What `doctor` tries on this machine leaves nothing, whatever else runs here. */
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { mountTable } from '../../packages/host/src/linux/mount-table.ts'
import { loadConfig } from '../../packages/server/src/config.ts'

const MAIN = join(import.meta.dirname, '../../packages/server/src/main.ts')
const TEST_TIMEOUT_MS = 120_000

let dir: string
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'doctor-'))
  chmodSync(dir, 0o711)
})
afterEach(() => rmSync(dir, { recursive: true, force: true }))

interface Finding {
  name: string
  ok: boolean
  required: boolean
  detail: string
}

function doctor(): { status: number | null; engine: Finding | undefined } {
  const places = { E2B_STATE_DIR: dir, E2B_IMAGES_DIR: loadConfig().imagesDir, E2B_RUN_DIR: join(dir, 'run') }
  const env = { ...process.env, ...places, E2B_ISOLATION: 'auto' }
  const { status, stdout } = spawnSync(process.execPath, [MAIN, 'doctor', '--json'], {
    env,
    encoding: 'utf8',
  })
  const { findings } = JSON.parse(stdout) as { findings: Finding[] }
  return { status, engine: findings.find(({ name }) => name === 'engine of sandboxes') }
}

it(
  'engines are tried, and nothing is left',
  () => {
    const { engine } = doctor()
    expect(engine).toMatchObject({ ok: true, detail: expect.stringContaining('(isolation: auto)') })
    expect(readdirSync(dir)).toEqual([])
    expect(mountTable().filter(({ target }) => target.startsWith(dir))).toEqual([])
  },
  TEST_TIMEOUT_MS,
)

it(
  'a disk that holds nothing is a verdict, and nothing is left',
  () => {
    // In the way of the file with the probe's disks.
    mkdirSync(join(dir, 'probe.btrfs.new/full'), { recursive: true })
    const { status, engine } = doctor()
    expect(status).toBe(1)
    expect(engine).toMatchObject({
      ok: false,
      required: true,
      detail: expect.stringContaining('not be tried'),
    })
    expect(existsSync(join(dir, 'run-probe'))).toBe(false)
    expect(mountTable().filter(({ target }) => target.startsWith(dir))).toEqual([])
  },
  TEST_TIMEOUT_MS,
)
