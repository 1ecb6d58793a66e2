import { bodyChunks, type Exchange, HttpError } from '../http/exchange.ts'
import { errorText } from '../system/error-text.ts'
import type { Encoding } from './encoding.ts'

/** The body of an upload, as the bytes that the file shall have. */
export interface RequestBody {
  readonly chunks: AsyncIterable<Buffer>
  /** Lets go of the request, whether or not all was read, so that it can be answered. Idempotent. */
  close(): void
}

/** Reads begin with the call. @throws HttpError 400 when a compressed body does not begin as one */
export async function openBody(request: Exchange['request'], encoding: Encoding): Promise<RequestBody> {
  if (encoding === 'identity') return { chunks: bodyChunks(request), close: () => {} }
  const { createGunzip } = await import('node:zlib')
  const gunzip = createGunzip()
  // The reader sees failures; one that comes when nobody reads, or reads any more, must not end the agent.
  gunzip.on('error', () => {})
  request.on('error', (error) => gunzip.destroy(error))
  request.on('close', () => {
    if (!request.complete) gunzip.destroy(new Error('unexpected EOF'))
  })
  request.pipe(gunzip)
  const close = (): void => {
    // At once: a body that is still piped into what nobody reads would stand still.
    request.unpipe(gunzip)
    gunzip.destroy()
  }
  const chunks = gunzip[Symbol.asyncIterator]() as AsyncIterator<Buffer>
  try {
    return { chunks: resumed(await chunks.next(), chunks), close }
  } catch (error) {
    close()
    throw new HttpError(
      400,
      `error decompressing request body: failed to create gzip reader: ${errorText(error)}`,
    )
  }
}

/** What was read, and then the rest. */
async function* resumed(
  first: IteratorResult<Buffer>,
  rest: AsyncIterator<Buffer>,
): AsyncGenerator<Buffer, void> {
  for (let item = first; !item.done; item = await rest.next()) yield item.value
}
