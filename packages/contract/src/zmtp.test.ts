import { expect, test } from 'vitest'
import { ZMTP_GREETING, ZmtpReader, zmtpMessage, zmtpReady } from './zmtp.ts'

function heardOf(): { reader: ZmtpReader; heard: unknown[] } {
  const heard: unknown[] = []
  const reader = new ZmtpReader({
    onGreeting: () => heard.push('greeting'),
    onReady: () => heard.push('ready'),
    onMessage: (parts) => heard.push(parts.map(String)),
  })
  return { reader, heard }
}

const long = 'x'.repeat(70_000)
const bytes = Buffer.concat([
  ZMTP_GREETING,
  zmtpReady('DEALER'),
  zmtpMessage([Buffer.from('one'), Buffer.alloc(0), Buffer.from(long)]),
  zmtpMessage([Buffer.from('two')]),
])
const all = ['greeting', 'ready', ['one', '', long], ['two']]

test.each([1, 7, 64, 65, 1_000, bytes.length])('what comes in pieces of %i bytes is read whole', (size) => {
  const { reader, heard } = heardOf()
  for (let at = 0; at < bytes.length; at += size) reader.read(bytes.subarray(at, at + size))
  expect(heard).toEqual(all)
})

test('the frames are those of the protocol', () => {
  expect(zmtpMessage([Buffer.from('ab'), Buffer.from('c')])).toEqual(Buffer.from([1, 2, 97, 98, 0, 1, 99]))
  expect(zmtpMessage([Buffer.alloc(256)]).subarray(0, 9)).toEqual(Buffer.from([2, 0, 0, 0, 0, 0, 0, 1, 0]))
  expect(zmtpReady('SUB').subarray(0, 8)).toEqual(Buffer.from([4, 38, 5, 82, 69, 65, 68, 89]))
})

test('another protocol is refused, and so is a frame beyond all measure', () => {
  expect(() => heardOf().reader.read(Buffer.alloc(64))).toThrow(RangeError)
  const { reader } = heardOf()
  reader.read(ZMTP_GREETING)
  expect(() => reader.read(Buffer.from([2, 0, 0, 0, 1, 0, 0, 0, 0]))).toThrow(RangeError)
})
