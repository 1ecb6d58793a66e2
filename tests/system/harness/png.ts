import { readFileSync } from 'node:fs'
import { crc32, inflateSync } from 'node:zlib'

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])

/** A decoded PNG: its size, and how many different byte values its pixel data has (1 = a blank image). */
export interface Png {
  width: number
  height: number
  shades: number
}

/** Reads a PNG to its end, checks every chunk, unpacks the pixels; throws where an image viewer would give up. */
export function readPng(path: string): Png {
  const file = readFileSync(path)
  if (!file.subarray(0, 8).equals(SIGNATURE)) throw new Error(`${path} is no PNG`)
  const pixels: Buffer[] = []
  let [width, height, type] = [0, 0, '']
  for (let offset = 8; type !== 'IEND'; ) {
    const length = file.readUInt32BE(offset)
    type = file.toString('latin1', offset + 4, offset + 8)
    const data = file.subarray(offset + 8, offset + 8 + length)
    const sum = file.readUInt32BE(offset + 8 + length)
    if (crc32(file.subarray(offset + 4, offset + 8 + length)) !== sum) {
      throw new Error(`${path}: the chunk ${type} is damaged`)
    }
    if (type === 'IHDR') [width, height] = [data.readUInt32BE(0), data.readUInt32BE(4)]
    if (type === 'IDAT') pixels.push(data)
    offset += 12 + length
  }
  return { width, height, shades: new Set(inflateSync(Buffer.concat(pixels))).size }
}
