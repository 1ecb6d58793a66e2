import { basename } from 'node:path'
import { readMetadata, validateMetadata } from '../filesystem/metadata.ts'
import { requireTokenOrSignature } from '../http/access.ts'
import { type Exchange, HttpError, header, sendJson } from '../http/exchange.ts'
import type { AgentState } from '../state.ts'
import { errorText } from '../system/error-text.ts'
import type { User } from '../system/users.ts'
import { uploadEncoding } from './encoding.ts'
import { boundaryOf, type Part, readParts } from './multipart.ts'
import { openBody } from './request-body.ts'
import { filePath, fileUser } from './request-user.ts'
import { writeFile } from './write-file.ts'

const METADATA_HEADER = 'x-metadata-'

/** One element of the answer; `metadata` is absent when the file has none. */
interface UploadedFile {
  readonly path: string
  readonly name: string
  readonly type: 'file'
  readonly metadata?: Record<string, string>
}

interface Upload {
  readonly state: AgentState
  readonly user: User
  readonly metadata: Readonly<Record<string, string>>
  readonly body: AsyncIterable<Buffer>
  readonly announcedBytes: number | undefined
  /** Target given in the query, for a form with one file and for raw bodies. */
  readonly path: string | undefined
}

/** `POST /files`: writes the files of a form, or one raw body. @throws HttpError with the documented status and text */
export async function upload(exchange: Exchange, state: AgentState): Promise<void> {
  const { request, query } = exchange
  requireTokenOrSignature(state, exchange, 'write')
  const username = query.get('username') ?? undefined
  if (username === undefined && !state.defaultUser) throw new HttpError(400, 'username not provided')
  const encoding = uploadEncoding(header(request, 'content-encoding'))
  const user = fileUser(state, username)
  const metadata = metadataOf(request.rawHeaders)
  const contentType = header(request, 'content-type') ?? ''
  const mediaType = contentType.split(';')[0]?.trim().toLowerCase() ?? ''
  const body = await openBody(request, encoding)
  try {
    const write: Upload = {
      state,
      user,
      metadata,
      body: body.chunks,
      announcedBytes: Number(header(request, 'content-length')) || undefined,
      path: query.get('path') ?? undefined,
    }
    sendJson(exchange.response, 200, await writeAll(write, mediaType, contentType))
  } finally {
    body.close()
  }
}

async function writeAll(write: Upload, mediaType: string, contentType: string): Promise<UploadedFile[]> {
  if (mediaType === 'application/octet-stream') return [await writeRaw(write)]
  if (mediaType.startsWith('multipart/')) return await writeForm(write, contentType)
  throw new HttpError(
    400,
    `unsupported content type: ${contentType}, expected multipart/form-data or application/octet-stream`,
  )
}

/** Of several headers with one name the first counts. @param headers names and values in turn, as sent */
function metadataOf(headers: readonly string[]): Record<string, string> {
  const found = new Map<string, string>()
  for (let at = 0; at + 1 < headers.length; at += 2) {
    const name = headers[at]!.toLowerCase()
    const key = name.startsWith(METADATA_HEADER) ? name.slice(METADATA_HEADER.length) : ''
    if (key && !found.has(key)) found.set(key, headers[at + 1]!)
  }
  const metadata = Object.fromEntries(found)
  try {
    validateMetadata(metadata)
  } catch (error) {
    throw new HttpError(400, `invalid metadata: ${errorText(error)}`)
  }
  return metadata
}

async function writeRaw(write: Upload): Promise<UploadedFile> {
  if (write.path === undefined) {
    throw new HttpError(400, 'path query parameter is required for raw body upload')
  }
  const path = filePath(write.path, write.user, write.state, 'error resolving path')
  await writeFile({ ...write, path })
  return uploadedFile(path)
}

async function writeForm(write: Upload, contentType: string): Promise<UploadedFile[]> {
  const boundary = boundaryOf(contentType)
  if (!boundary) throw new HttpError(500, 'error parsing multipart form: no multipart boundary param')
  const written: UploadedFile[] = []
  try {
    for await (const part of readParts(write.body, boundary)) {
      if (part.name !== 'file') continue
      const path = targetOf(part, write, written)
      await writeFile({ ...write, body: part.body, path })
      written.push(uploadedFile(path))
    }
  } catch (error) {
    if (error instanceof HttpError) throw error
    throw new HttpError(500, `error reading form: ${errorText(error)}`)
  }
  return written
}

function targetOf(part: Part, write: Upload, written: readonly UploadedFile[]): string {
  const named = write.path ?? part.filename
  if (named === undefined) {
    const reason = 'filename not found in Content-Disposition header'
    throw new HttpError(400, `error getting multipart custom part file name: ${reason}`)
  }
  const path = filePath(named, write.user, write.state, 'error resolving path')
  if (!written.some((file) => file.path === path)) return path
  const others = written.filter((file) => file.path !== path).map((file) => file.path)
  const also = others.length > 1 ? `, also the following files were uploaded: ${others.join(', ')}` : ''
  const rule = `you cannot upload multiple files to the same path '${path}' in one upload request`
  throw new HttpError(400, `${rule}, only the first specified file was uploaded${also}`)
}

function uploadedFile(path: string): UploadedFile {
  const metadata = readMetadata(path)
  return {
    path,
    name: basename(path),
    type: 'file',
    ...(Object.keys(metadata).length > 0 ? { metadata } : {}),
  }
}
