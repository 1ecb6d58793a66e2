import { HttpError } from '../http/exchange.ts'

export type Encoding = 'gzip' | 'identity'

interface Weighted {
  readonly name: string
  readonly quality: number
}

function parse(value: string): Weighted[] {
  return value.split(',').map((item) => {
    const [name = '', ...parameters] = item.split(';').map((part) => part.trim().toLowerCase())
    const q = parameters.find((parameter) => parameter.startsWith('q='))
    const quality = q === undefined ? 1 : Number(q.slice(2))
    return { name, quality: Number.isNaN(quality) ? 1 : quality }
  })
}

function isIdentityRejected(accepted: readonly Weighted[]): boolean {
  const identity = accepted.find(({ name }) => name === 'identity')
  if (identity) return identity.quality === 0
  return accepted.some(({ name, quality }) => name === '*' && quality === 0)
}

/** False when the client refuses the bytes as they are. */
export const acceptsIdentity = (acceptEncoding: string | undefined): boolean =>
  !isIdentityRejected(acceptEncoding ? parse(acceptEncoding) : [])

/**
 * The encoding of a download for an Accept-Encoding header. A request for a range or with a condition gets the
 * bytes as they are.
 *
 * @throws HttpError 406 when none is acceptable
 */
export function chooseEncoding(acceptEncoding: string | undefined, isPartial: boolean): Encoding {
  const accepted = acceptEncoding ? parse(acceptEncoding) : []
  const rejected = isIdentityRejected(accepted)
  const encoding = preferred(accepted, rejected)
  if (!isPartial) return encoding
  if (rejected) {
    throw new HttpError(406, 'identity encoding not acceptable for Range or conditional request')
  }
  return 'identity'
}

function preferred(accepted: readonly Weighted[], identityRejected: boolean): Encoding {
  const ordered = [...accepted].sort((left, right) => right.quality - left.quality)
  for (const { name, quality } of ordered) {
    if (quality === 0) continue
    if (name === 'identity' || name === 'gzip') return name
    if (name === '*') return identityRejected ? 'gzip' : 'identity'
  }
  if (!identityRejected) return 'identity'
  throw new HttpError(406, 'error parsing Accept-Encoding: no acceptable encoding found, supported: [gzip]')
}

/** The encoding of an upload. @throws HttpError 400 when it is not supported */
export function uploadEncoding(contentEncoding: string | undefined): Encoding {
  const name = contentEncoding?.split(';')[0]?.trim().toLowerCase() || 'identity'
  if (name === 'identity' || name === 'gzip') return name
  const text = `unsupported Content-Encoding: ${contentEncoding}, supported: [gzip]`
  throw new HttpError(400, `error decompressing request body: ${text}`)
}
