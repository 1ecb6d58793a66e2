import type { FileHandle } from 'node:fs/promises'
import { promisify } from 'node:util'

/** Below this size compressing costs nothing worth a look. */
const ALWAYS_BELOW_BYTES = 1024 * 1024
const SAMPLES = 8
const SAMPLE_BYTES = 8 * 1024
/** What compression must save of the samples, as a part of them. */
const LEAST_SAVING = 0.1

/**
 * Whether gzip makes a file smaller by more than a tenth, judged by samples from its whole length. Clients ask for
 * gzip by themselves, and archives, images or random data cost them and the agent a second for every 60 MiB for nothing.
 */
export async function compressionPays(file: FileHandle, sizeBytes: number): Promise<boolean> {
  if (sizeBytes < ALWAYS_BELOW_BYTES) return true
  const { deflateRaw, constants } = await import('node:zlib')
  const samples = Buffer.alloc(SAMPLES * SAMPLE_BYTES)
  const strideBytes = Math.floor(sizeBytes / SAMPLES)
  let filledBytes = 0
  for (let index = 0; index < SAMPLES; index++) {
    const { bytesRead } = await file.read(samples, filledBytes, SAMPLE_BYTES, index * strideBytes)
    filledBytes += bytesRead
  }
  const packed = await promisify(deflateRaw)(samples.subarray(0, filledBytes), {
    level: constants.Z_BEST_SPEED,
  })
  return packed.length < filledBytes * (1 - LEAST_SAVING)
}
