import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { usernsEntry, utsnsEntry, withEntry, writeOwnImages } from './images.ts'

/** As CRIU 4.2.1 wrote it for a host called cold0. */
const UTSNS_IMAGE = Buffer.from('19435654033247540f0000000a05636f6c64301206286e6f6e6529', 'hex')

test('an image of a host name is byte for byte what CRIU writes', () => {
  expect(withEntry(UTSNS_IMAGE, utsnsEntry('cold0'))).toEqual(UTSNS_IMAGE)
})

test('a host name of another length changes the size in front', () => {
  const image = withEntry(UTSNS_IMAGE, utsnsEntry('a-longer-name'))
  expect(image.readUInt32LE(8)).toBe(image.length - 12)
  expect(image.subarray(0, 8)).toEqual(UTSNS_IMAGE.subarray(0, 8))
})

test('an id range is one extent for users and the same for groups', () => {
  const extent = '080010808080800718808004'
  const message = `0a${(extent.length / 2).toString(16).padStart(2, '0')}${extent}`
  expect(usernsEntry(0x7000_0000).toString('hex')).toBe(message + message.replace(/^0a/, '12'))
})

test('only what differs from clone to clone is written anew', () => {
  const dir = mkdtempSync(join(tmpdir(), 'images-'))
  try {
    for (const name of ['utsns-11.img', 'userns-13.img', 'core-1.img'])
      writeFileSync(join(dir, name), UTSNS_IMAGE)
    const own = join(dir, 'own')
    writeOwnImages(dir, own, { hostname: 'x', uidBase: 1 })
    expect(readdirSync(own).toSorted()).toEqual(['userns-13.img', 'utsns-11.img'])
    expect(readFileSync(join(own, 'utsns-11.img'), 'latin1')).toContain('(none)')
  } finally {
    rmSync(dir, { recursive: true })
  }
})

test('an image that is cut off is refused', () => {
  expect(() => withEntry(Buffer.from('1943'), utsnsEntry('x'))).toThrow(/cut off/)
})
