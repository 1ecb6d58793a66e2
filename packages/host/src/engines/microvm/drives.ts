/**
 * Layers as block devices. A machine has room for some dozen devices and a template for more layers: large layers are
 * devices of their own, the small ones lie together in one bundle, which guest-init takes apart. Bundles are made once
 * for each set of layers and named by it.
 */
import { createHash, randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { writeWhole } from '../../linux/whole-io.ts'
import type { Layer } from '../../storage/layers.ts'
import { removeAbandoned, UNFINISHED } from '../unfinished.ts'
import type { Drive } from './monitor.ts'

/** As guest-init.c has it. */
const BUNDLE_MAGIC = 'E2BPACK1'
const BUNDLE_HEADER_BYTES = 4096
const MAX_BUNDLED = 255
const COPY_BYTES = 2 ** 20
const BUNDLE_SUFFIX = '.bundle'
const RECORD_SUFFIX = '.json'

export interface LayerDrives {
  drives: readonly Drive[]
  /** Value of guest-init's `e2b.lower`: the topmost first. */
  lower: string
}

/**
 * @param layers bottom to top, the agent's own included
 * @param maxDrives how many devices there is room for, at least two
 * @param firstDrive position of the first of them among the machine's devices
 * @param bundlesDir gets bundles
 */
export async function layerDrives(
  layers: readonly Layer[],
  { maxDrives, firstDrive, bundlesDir }: { maxDrives: number; firstDrive: number; bundlesDir: string },
): Promise<LayerDrives> {
  const alone = layers.length <= maxDrives ? layers : largest(layers, maxDrives - 1)
  const together = layers.filter((layer) => !alone.includes(layer))
  if (together.length > MAX_BUNDLED) throw new Error(`${layers.length} layers are too many for one machine`)
  const drives = alone.map(({ imagePath }): Drive => ({ path: imagePath, readOnly: true }))
  if (together.length > 0) drives.push({ path: await bundle(together, bundlesDir), readOnly: true })
  const nameOf = (layer: Layer): string => {
    const at = alone.indexOf(layer)
    return at >= 0
      ? driveName(firstDrive + at)
      : `${driveName(firstDrive + alone.length)}.${together.indexOf(layer) + 1}`
  }
  return { drives, lower: layers.toReversed().map(nameOf).join(',') }
}

/** As the kernel counts: vda to vdz, then vdaa. */
export function driveName(index: number): string {
  const letter = String.fromCharCode(97 + (index % 26))
  return index < 26 ? `vd${letter}` : `${driveName(Math.floor(index / 26) - 1)}${letter}`
}

/** Deletes bundles with a layer that is gone, and what was left of making one. Not while one is being made here. */
export function removeStaleBundles(bundlesDir: string, isKnown: (digest: string) => boolean): void {
  if (!existsSync(bundlesDir)) return
  removeAbandoned(bundlesDir)
  for (const name of readdirSync(bundlesDir).filter((entry) => entry.endsWith(RECORD_SUFFIX))) {
    const record = join(bundlesDir, name)
    const digests = JSON.parse(readFileSync(record, 'utf8')) as string[]
    if (digests.every(isKnown)) continue
    rmSync(record.replace(RECORD_SUFFIX, BUNDLE_SUFFIX), { force: true })
    rmSync(record)
  }
}

function largest(layers: readonly Layer[], count: number): readonly Layer[] {
  const bySize = layers.toSorted((a, b) => b.sizeBytes - a.sizeBytes).slice(0, count)
  return layers.filter((layer) => bySize.includes(layer))
}

/** Published by one rename; a record beside it says what it is made of. */
async function bundle(layers: readonly Layer[], bundlesDir: string): Promise<string> {
  const digests = layers.map(({ digest }) => digest)
  const name = createHash('sha256').update(digests.join(' ')).digest('hex')
  const path = join(bundlesDir, `${name}${BUNDLE_SUFFIX}`)
  if (existsSync(path)) return path
  mkdirSync(bundlesDir, { recursive: true })
  writeFileSync(join(bundlesDir, `${name}${RECORD_SUFFIX}`), JSON.stringify(digests))
  const unfinished = join(bundlesDir, `${UNFINISHED}${randomUUID()}`)
  await writeBundle(layers, unfinished)
  renameSync(unfinished, path)
  return path
}

async function writeBundle(layers: readonly Layer[], path: string): Promise<void> {
  const header = Buffer.alloc(BUNDLE_HEADER_BYTES)
  header.write(BUNDLE_MAGIC, 'latin1')
  header.writeUInt32LE(layers.length, BUNDLE_MAGIC.length)
  await using target = await open(path, 'w', 0o444)
  let start = BUNDLE_HEADER_BYTES
  for (const [at, layer] of layers.entries()) {
    const place = BUNDLE_MAGIC.length + 4 + at * 16
    header.writeBigUInt64LE(BigInt(start), place)
    header.writeBigUInt64LE(BigInt(layer.sizeBytes), place + 8)
    await using source = await open(layer.imagePath)
    const buffer = Buffer.alloc(COPY_BYTES)
    for (let done = 0; done < layer.sizeBytes; ) {
      const { bytesRead } = await source.read(buffer, 0, buffer.length, done)
      if (bytesRead === 0) throw new Error(`layer ${layer.digest} is shorter than it was`)
      await writeWhole(target, buffer.subarray(0, bytesRead), start + done)
      done += bytesRead
    }
    start += Math.ceil(layer.sizeBytes / BUNDLE_HEADER_BYTES) * BUNDLE_HEADER_BYTES
  }
  await writeWhole(target, header, 0)
  await target.sync()
}
