import { expect, test } from 'vitest'
import { encodeFrame, type Frame, FrameReader, MESSAGE, PARENT } from './publisher-frame.ts'

test.each([1, 3, 7, 1000])('frames come whole out of pieces of %i bytes', (size) => {
  const sent: Frame[] = [
    { kind: PARENT, body: Buffer.from('{"a":1}') },
    { kind: MESSAGE, body: Buffer.alloc(0) },
    { kind: MESSAGE, body: Buffer.from('x'.repeat(300)) },
  ]
  const bytes = Buffer.concat(sent.map(({ kind, body }) => encodeFrame(kind, body)))
  const reader = new FrameReader()
  const received: Frame[] = []
  for (let start = 0; start < bytes.length; start += size) {
    received.push(...reader.take(bytes.subarray(start, start + size)))
  }
  expect(received).toEqual(sent)
})
