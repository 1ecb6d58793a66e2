import type { Readable, Writable } from 'node:stream'

/**
 * Carries chunks from `source` to `sink` as they come, at the pace of the slower side, and calls `ended` when
 * the source came to its end. Never writes an empty chunk: HTTP/2 clients count empty DATA frames and hang up.
 * Failures of either side are the caller's to watch.
 */
export function pump(source: Readable, sink: Writable, ended: () => void): void {
  source.on('data', (chunk: Buffer) => {
    if (chunk.length > 0 && !sink.destroyed && !sink.write(chunk)) source.pause()
  })
  sink.on('drain', () => source.resume())
  source.once('end', ended)
}
