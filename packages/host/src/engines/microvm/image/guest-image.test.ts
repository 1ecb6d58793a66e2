import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { buildGuestImage, currentGuestImage } from './guest-image.ts'

/** The one that tests of machines boot: made once on a machine. */
const directory = join(tmpdir(), 'microvm-test-image')
const BUILDS_WITHIN_MS = 120_000

it(
  'an image of the kernel that is served today is left alone, also when another cannot be had',
  async () => {
    const image = await buildGuestImage({ directory })
    const said: string[] = []
    const again = await buildGuestImage({ directory, progress: (line) => said.push(line) })
    expect([again, said]).toEqual([image, []])
    await expect(buildGuestImage({ directory, kernelSeries: '0.1' })).rejects.toThrow('series 0.1')
    expect(currentGuestImage(directory)).toEqual(image)
  },
  BUILDS_WITHIN_MS,
)
