import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Layer } from '../../storage/layers.ts'
import { driveName, layerDrives, removeStaleBundles } from './drives.ts'

const PAGE = 4096

let dir: string

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'drives-'))
})

afterEach(() => rmSync(dir, { recursive: true }))

/** A layer of so many pages, each filled with its letter. */
function layer(letter: string, pages: number): Layer {
  const imagePath = join(dir, letter)
  writeFileSync(imagePath, letter.repeat(pages * PAGE))
  return { digest: letter, imagePath, sizeBytes: pages * PAGE }
}

const room = (maxDrives: number) => ({ maxDrives, firstDrive: 1, bundlesDir: join(dir, 'bundles') })

test('drives are named as the kernel names them', () => {
  expect([0, 1, 25, 26, 27, 52].map(driveName)).toEqual(['vda', 'vdb', 'vdz', 'vdaa', 'vdab', 'vdba'])
})

test('where there is room each layer is a device, and the topmost is named first', async () => {
  const layers = [layer('a', 1), layer('b', 2)]
  const { drives, lower } = await layerDrives(layers, room(2))
  expect(drives.map(({ path }) => path)).toEqual(layers.map(({ imagePath }) => imagePath))
  expect(lower).toBe('vdc,vdb')
  expect(existsSync(room(2).bundlesDir)).toBe(false)
})

test('where there is not the small ones are together in one, in their places of the stack', async () => {
  const layers = [layer('a', 1), layer('b', 9), layer('c', 2), layer('d', 1)]
  const { drives, lower } = await layerDrives(layers, room(2))
  expect(drives.length).toBe(2)
  expect(drives[0]!.path).toBe(layers[1]!.imagePath)
  expect(lower).toBe('vdc.3,vdc.2,vdb,vdc.1')
  const bundle = readFileSync(drives[1]!.path)
  expect(bundle.toString('latin1', 0, 8)).toBe('E2BPACK1')
  expect(bundle.readUInt32LE(8)).toBe(3)
  const images = [0, 1, 2].map((at) => {
    const start = Number(bundle.readBigUInt64LE(12 + at * 16))
    return bundle.toString('latin1', start, start + Number(bundle.readBigUInt64LE(20 + at * 16)))
  })
  expect(images).toEqual(
    ['a', 'cc', 'd'].map((letters) => letters.replace(/./g, (each) => each.repeat(PAGE))),
  )
})

test('a bundle is made once, and goes when one of its layers is gone', async () => {
  const layers = ['a', 'b', 'c'].map((letter) => layer(letter, 1))
  const first = (await layerDrives(layers, room(2))).drives[1]!.path
  rmSync(layers[1]!.imagePath)
  expect((await layerDrives(layers, room(2))).drives[1]!.path).toBe(first)
  removeStaleBundles(room(2).bundlesDir, () => true)
  expect(existsSync(first)).toBe(true)
  removeStaleBundles(room(2).bundlesDir, (digest) => digest !== 'c')
  expect(existsSync(first)).toBe(false)
})
