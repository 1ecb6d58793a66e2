import { constants, type Stats, statSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { basename } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { requireTokenOrSignature } from '../http/access.ts'
import { type Exchange, HttpError, header, sendEmpty, setHead } from '../http/exchange.ts'
import type { AgentState } from '../state.ts'
import { errorCode } from '../system/paths.ts'
import { type ByteRange, parseRange } from './byte-range.ts'
import { compressionPays } from './compression-pays.ts'
import { typeByContent, typeByExtension } from './content-type.ts'
import { acceptsIdentity, chooseEncoding } from './encoding.ts'
import { filePath, fileUser } from './request-user.ts'

const SNIFF_BYTES = 512
const CHUNK_BYTES = 64 * 1024
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
    response.setHeader('Content-Disposition', `inline; filename=${dispositionName(basename(path))}`)
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
    const reason = error instanceof Error ? error.message : String(error)
    throw new HttpError(500, `error checking if path exists '${path}': ${reason}`)
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
    throw new HttpError(500, `error opening file '${path}': ${errorCode(error) ?? String(error)}`)
  }
}

/** A token as it is, anything else quoted, bytes outside ASCII in the extended form's place as `_`. */
function dispositionName(name: string): string {
  if (/^[\w!#$&+.^`|~-]+$/.test(name)) return name
  if (/^[\x20-\x7e]*$/.test(name)) return `"${name.replace(/["\\]/g, '\\$&')}"`
  return `"${name.replace(/[^\x20-\x7e]/g, '_').replace(/["\\]/g, '\\$&')}"; filename*=utf-8''${encodeURIComponent(name)}`
}

async function sendCompressed({ response }: Exchange, file: FileHandle, path: string): Promise<void> {
  const { createGzip, constants: zlib } = await import('node:zlib')
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
  response.setHeader('Last-Modified', modified.toUTCString())
  if (isUnmodified(header(request, 'if-none-match'), header(request, 'if-modified-since'), modified)) {
    sendEmpty(response, 304)
    return
  }
  response.setHeader('Accept-Ranges', 'bytes')
  const ifRange = header(request, 'if-range')
  const honoured = ifRange === undefined || Date.parse(ifRange) === modified.getTime()
  const range = honoured ? parseRange(header(request, 'range'), info.size) : undefined
  if (range === 'unsatisfiable') {
    sendEmpty(response, 416, { 'Content-Range': `bytes */${info.size}`, 'Content-Length': 0 })
    return
  }
  response.setHeader('Content-Type', typeByExtension(path) ?? typeByContent(await readStart(file)))
  await sendBytes(response, file, info, range)
}

function isUnmodified(noneMatch: string | undefined, since: string | undefined, modified: Date): boolean {
  if (noneMatch !== undefined) return noneMatch.trim() === '*'
  return since !== undefined && modified.getTime() <= Date.parse(since)
}

async function readStart(file: FileHandle): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(SNIFF_BYTES), 0, SNIFF_BYTES, 0)
  return buffer.subarray(0, bytesRead)
}

async function sendBytes(
  response: Exchange['response'],
  file: FileHandle,
  info: Stats,
  range: ByteRange | undefined,
): Promise<void> {
  if (range) {
    setHead(response, 206, {
      'Content-Range': `bytes ${range.start}-${range.end}/${info.size}`,
      'Content-Length': range.end - range.start + 1,
    })
    await pipeline(file.createReadStream({ autoClose: false, ...range }), response)
    return
  }
  setHead(response, 200, { 'Content-Length': info.size })
  if (info.size === 0) response.end()
  else await pipeline(file.createReadStream({ autoClose: false, start: 0, end: info.size - 1 }), response)
}
