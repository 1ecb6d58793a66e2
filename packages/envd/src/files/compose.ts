import { chownSync, renameSync, rmSync, type Stats, statSync } from 'node:fs'
import { open } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { newUuid } from '@sandbox/contract/ids'
import { type Exchange, HttpError, readJson, sendJson, stringField } from '../http/exchange.ts'
import type { AgentState } from '../state.ts'
import { errorText } from '../system/error-text.ts'
import { ensureDirectory, isDiskFull } from '../system/paths.ts'
import type { User } from '../system/users.ts'
import { filePath, fileUser } from './request-user.ts'

const BODY_LIMIT_BYTES = 4 * 1024 * 1024
const COPY_BUFFER_BYTES = 256 * 1024

/**
 * `POST /files/compose`: joins files into one and removes them. The destination is replaced in one step, when
 * everything is in it.
 *
 * @throws HttpError 400, 401, 404, 500 or 507
 */
export async function compose({ request, response }: Exchange, state: AgentState): Promise<void> {
  const body = await readJson(request, BODY_LIMIT_BYTES)
  const names = sourceNames(body)
  const wanted = stringField(body, 'destination')
  if (!wanted) throw new HttpError(400, 'destination is required')
  const user = fileUser(state, stringField(body, 'username'))
  const destination = filePath(wanted, user, state, 'error resolving destination path')
  const sources = names.map((name) => sourcePath(name, destination, user, state))
  const temporary = `${destination}.e2b-compose.${newUuid()}.tmp`
  try {
    ensureDirectory(dirname(destination), user)
  } catch (error) {
    throw new HttpError(500, `error ensuring directories: ${errorText(error)}`)
  }
  try {
    await concatenate(sources, temporary)
    chownSync(temporary, user.uid, user.gid)
    renameSync(temporary, destination)
  } catch (error) {
    discard(temporary)
    if (isDiskFull(error)) throw new HttpError(507, 'not enough disk space available')
    throw new HttpError(500, `error composing: ${errorText(error)}`)
  }
  sources.forEach(discard)
  sendJson(response, 200, { path: destination, name: basename(destination), type: 'file' })
}

function sourceNames(body: Record<string, unknown>): string[] {
  const names = body.source_paths
  if (!Array.isArray(names) || names.length === 0) throw new HttpError(400, 'source_paths must not be empty')
  if (!names.every((name): name is string => typeof name === 'string')) {
    throw new HttpError(400, 'invalid request body: source_paths must be strings')
  }
  return names
}

function sourcePath(name: string, destination: string, user: User, state: AgentState): string {
  const quoted = JSON.stringify(name)
  const path = filePath(name, user, state, `error resolving source path ${quoted}`)
  if (path === destination) {
    throw new HttpError(400, `source path ${quoted} cannot be the same as destination`)
  }
  let info: Stats | undefined
  try {
    info = statSync(path)
  } catch {
    throw new HttpError(404, `source file not found: ${name}`)
  }
  if (!info.isFile()) throw new HttpError(400, `source path is not a regular file: ${name}`)
  return path
}

function discard(path: string): void {
  try {
    rmSync(path, { force: true })
  } catch {
    // It stays: the result is there already, or the error that came first is told.
  }
}

async function concatenate(sources: readonly string[], destination: string): Promise<void> {
  await using target = await open(destination, 'w', 0o666)
  const buffer = Buffer.allocUnsafe(COPY_BUFFER_BYTES)
  for (const source of sources) {
    await using from = await open(source, 'r')
    for (;;) {
      const { bytesRead } = await from.read(buffer, 0, buffer.length)
      if (bytesRead === 0) break
      for (let done = 0; done < bytesRead; )
        done += (await target.write(buffer, done, bytesRead - done)).bytesWritten
    }
  }
}
