import { constants, type Stats, statSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { basename } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { requireTokenOrSignature } from '../http/access.ts'
import { type Exchange, HttpError, header, sendEmpty, setHead } from '../http/exchange.ts'
import type { AgentState } from '../state.ts'
import { errorText } from '../system/error-text.ts'
import { type ByteRange, parseRange } from './byte-range.ts'
import { compressionPays } from './compression-pays.ts'
import { checkConditions } from './conditions.ts'
import { typeByContent, typeByExtension } from './content-type.ts'
import { acceptsIdentity, chooseEncoding } from './encoding.ts'
import { filePath, fileUser } from './request-user.ts'

const SNIFF_BYTES = 512
const CHUNK_BYTES = 64 * 1024
/** Files up to this size are read before their length is told. */
const READ_AHEAD_BYTES = 64 * 1024
const PARTIAL_HEADERS = ['range', 'if-modified-since', 'if-none-match', 'if-range'] as const

/** `GET /files`: streams one file. @throws HttpError with the documented status and text */
export async function download(exchange: Exchange, state: AgentState): Promise<void> {
  const { request, response, query } = exchange
  requireTokenOrSignature(state, exchange, 'read')
  const user = fileUser(state, query.get('username') ?? undefined)
  const asked = query.get('path') ?? ''
  const path = filePath(asked, user, state, `error expanding and resolving path '${asked}'`)
  const info = fileInfo(path)
  const isPartial = PARTIAL_HEADERS.some((name) => header(request, name))
  const accepted = header(request, 'accept-encoding')
  const encoding = chooseEncoding(accepted, isPartial)
  response.setHeader('Vary', 'Accept-Encoding')
  const file = await openFile(path)
  try {
    response.setHeader('Content-Disposition', `inline; ${dispositionName(basename(path))}`)
    const mustCompress = encoding === 'gzip' && !acceptsIdentity(accepted)
    const compresses = mustCompress || (encoding === 'gzip' && (await compressionPays(file, info.size)))
    if (compresses) await sendCompressed(exchange, file, path)
    else await sendPlain(exchange, file, path, info)
  } finally {
    await file.close()
  }
}

function fileInfo(path: string): Stats {
  let info: Stats | undefined
  try {
    info = statSync(path, { throwIfNoEntry: false })
  } catch (error) {
    throw new HttpError(500, `error checking if path exists '${path}': ${errorText(error)}`)
  }
  if (!info) throw new HttpError(404, `path '${path}' does not exist`)
  if (info.isDirectory()) throw new HttpError(400, `path '${path}' is a directory`)
  return info
}

/** Without waiting: a pipe that nobody writes to would hold a worker thread for ever. */
async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw new HttpError(500, `error opening file '${path}': ${errorText(error)}`)
  }
}

/** The parameter for a file name: a token as it is, other ASCII quoted, anything else in the extended form (RFC 8187). */
function dispositionName(name: string): string {
  if (/[^\t\x20-\x7e]/.test(name)) return `filename*=utf-8''${extendedValue(name)}`
  if (/^[^\s()<>@,;:\\"/[\]?=]+$/.test(name)) return `filename=${name}`
  return `filename="${name.replace(/["\\]/g, '\\$&')}"`
}

function extendedValue(text: string): string {
  const encode = (byte: number): string => {
    const character = String.fromCharCode(byte)
    if (/[\w!#$&+.^`{|}~-]/.test(character)) return character
    return `%${byte.toString(16).toUpperCase().padStart(2, '0')}`
  }
  return Array.from(Buffer.from(text), encode).join('')
}

async function sendCompressed({ response }: Exchange, file: FileHandle, path: string): Promise<void> {
  const { createGzip, constants: zlib } = await import('node:zlib')
  // What cannot be read is told in an answer; once that has begun only the end of the connection could say so.
  await readStart(file, 1)
  setHead(response, 200, {
    'Content-Encoding': 'gzip',
    'Content-Type': typeByExtension(path) ?? 'application/octet-stream',
  })
  // The fastest level: a higher one takes three times as long to save a twentieth more of a text.
  const gzip = createGzip({ level: zlib.Z_BEST_SPEED, chunkSize: CHUNK_BYTES })
  await pipeline(file.createReadStream({ autoClose: false }), gzip, response)
}

async function sendPlain(
  { request, response }: Exchange,
  file: FileHandle,
  path: string,
  info: Stats,
): Promise<void> {
  const modified = new Date(Math.floor(info.mtimeMs / 1000) * 1000)
  const verdict = checkConditions(request, modified)
  if (verdict === 'failed') return sendEmpty(response, 412, { 'Content-Length': 0 })
  response.setHeader('Last-Modified', modified.toUTCString())
  if (verdict === 'unmodified') return sendEmpty(response, 304)
  const ifRange = header(request, 'if-range')
  const honoured = ifRange === undefined || Date.parse(ifRange) === modified.getTime()
  const range = honoured ? parseRange(header(request, 'range'), info.size) : undefined
  if (range === 'invalid' || range === 'unsatisfiable') return sendRefusal(response, range, info.size)
  response.setHeader('Accept-Ranges', 'bytes')
  response.setHeader(
    'Content-Type',
    typeByExtension(path) ?? typeByContent(await readStart(file, SNIFF_BYTES)),
  )
  if (!range) return sendWhole(response, file, info)
  setHead(response, 206, { 'Content-Range': `bytes ${range.start}-${range.end}/${info.size}` })
  await sendPart(response, file, range)
}

function sendRefusal(
  response: Exchange['response'],
  reason: 'invalid' | 'unsatisfiable',
  size: number,
): void {
  if (reason === 'unsatisfiable') response.setHeader('Content-Range', `bytes */${size}`)
  const text = Buffer.from(reason === 'invalid' ? 'invalid range\n' : 'invalid range: failed to overlap\n')
  setHead(response, 416, {
    'Content-Type': 'text/plain; charset=utf-8',
    'X-Content-Type-Options': 'nosniff',
    'Content-Length': text.length,
  })
  response.end(text)
}

/** Up to `limit` bytes from the beginning; fewer only when the file ends. */
async function readStart(file: FileHandle, limit: number): Promise<Buffer> {
  const buffer = Buffer.alloc(limit)
  let filled = 0
  for (let bytesRead = -1; bytesRead !== 0 && filled < limit; filled += bytesRead) {
    ;({ bytesRead } = await file.read(buffer, filled, limit - filled, filled))
  }
  return buffer.subarray(0, filled)
}

async function sendWhole(response: Exchange['response'], file: FileHandle, info: Stats): Promise<void> {
  if (info.size > READ_AHEAD_BYTES) return sendPart(response, file, { start: 0, end: info.size - 1 })
  // The kernel's own files tell another size than they have, mostly none.
  const start = info.isFile() ? await readStart(file, info.size || READ_AHEAD_BYTES) : Buffer.alloc(0)
  if (info.size > 0 || start.length < READ_AHEAD_BYTES) {
    response.setHeader('Content-Length', start.length)
    response.end(start)
    return
  }
  response.write(start)
  await pipeline(file.createReadStream({ autoClose: false, start: start.length }), response)
}

/** @throws Error when the file became shorter meanwhile: the answer must then be broken off, for it cannot be whole */
async function sendPart(response: Exchange['response'], file: FileHandle, range: ByteRange): Promise<void> {
  const length = range.end - range.start + 1
  response.setHeader('Content-Length', length)
  const source = file.createReadStream({ autoClose: false, ...range })
  await pipeline(source, response, { end: false })
  if (source.bytesRead < length) throw new Error(`the file ended ${length - source.bytesRead} bytes early`)
  response.end()
}
