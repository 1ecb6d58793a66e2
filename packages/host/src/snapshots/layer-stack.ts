import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { LayerSource } from '../cells/parts.ts'
import { HostError } from '../host-error.ts'
import type { Layer } from '../storage/layers.ts'
import type { Upper } from '../storage/uppers.ts'

/** Digests as layers of this machine, bottom to top. @throws HostError notFound */
export function layerStack(layers: LayerSource, digests: readonly string[]): Layer[] {
  return digests.map((digest) => {
    const layer = layers.get(digest)
    if (!layer) throw new HostError('notFound', `layer ${digest} is not on this host`)
    return layer
  })
}

/** The digests with what was written into an upper on top; an upper without a trace adds none. */
export async function withWritten(
  layers: LayerSource,
  digests: readonly string[],
  upper: Upper,
): Promise<readonly string[]> {
  const written = await readdir(join(upper.path, 'upper'))
  return written.length === 0 ? digests : [...digests, (await layers.importUpper(upper)).digest]
}
