import { type Dirent, lstatSync, readdirSync, realpathSync, renameSync, rmSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from '@connectrpc/connect'
import type { Filesystem } from '@sandbox/contract/gen/filesystem/filesystem_pb'
import { requestUser } from '../request-user.ts'
import type { AgentState } from '../state.ts'
import { ensureDirectory, errorCode, resolvePath } from '../system/paths.ts'
import type { User } from '../system/users.ts'
import { type EntryInfo, entryInfo } from './entry-info.ts'
import type { WatchService } from './watch-service.ts'

type FilesystemImpl = Required<ServiceImpl<typeof Filesystem>>

/** `filesystem.Filesystem`: every method throws ConnectError with the agent's documented codes and texts. */
export function filesystemService(state: AgentState, watches: WatchService): FilesystemImpl {
  const target = (path: string, context: HandlerContext): { path: string; user: User } => {
    const user = requestUser(state, context.requestHeader)
    return { path: resolveOrReject(path, user, state.defaultWorkdir), user }
  }
  return {
    stat: (request, context) => ({ entry: describe(target(request.path, context).path, state) }),

    makeDir(request, context) {
      const { path, user } = target(request.path, context)
      const info = statSync(path, { throwIfNoEntry: false })
      if (info?.isDirectory()) throw new ConnectError(`directory already exists: ${path}`, Code.AlreadyExists)
      if (info) {
        const text = `path already exists but it is not a directory: ${path}`
        throw new ConnectError(text, Code.InvalidArgument)
      }
      internally('', () => ensureDirectory(path, user))
      return { entry: describe(path, state) }
    },

    move(request, context) {
      const source = target(request.source, context).path
      const { path: destination, user } = target(request.destination, context)
      internally('', () => ensureDirectory(dirname(destination), user))
      try {
        renameSync(source, destination)
      } catch (error) {
        const missing = errorCode(error) === 'ENOENT'
        const text = `${missing ? 'source file not found' : 'error renaming'}: ${messageOf(error)}`
        throw new ConnectError(text, missing ? Code.NotFound : Code.Internal)
      }
      return { entry: describe(destination, state) }
    },

    listDir(request, context) {
      const { path } = target(request.path, context)
      const real = followLinks(path)
      if (!statSync(real).isDirectory()) {
        throw new ConnectError(`path is not a directory: ${real}`, Code.InvalidArgument)
      }
      const entries: EntryInfo[] = []
      internally(`error reading directory ${real}`, () => {
        walk(real, path, request.depth || 1, state, entries)
      })
      return { entries }
    },

    remove(request, context) {
      const { path } = target(request.path, context)
      internally('error removing file or directory', () => rmSync(path, { recursive: true, force: true }))
      return {}
    },

    watchDir: (request, context) => watches.stream(request, target(request.path, context).path, context),
    createWatcher: async (request, context) => ({
      watcherId: await watches.create(request, target(request.path, context).path),
    }),
    getWatcherEvents: (request) => ({ events: watches.drain(request.watcherId) }),
    removeWatcher(request) {
      watches.remove(request.watcherId)
      return {}
    },
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

function resolveOrReject(path: string, user: User, defaultWorkdir: string | undefined): string {
  try {
    return resolvePath(path, user, defaultWorkdir)
  } catch (error) {
    throw new ConnectError(messageOf(error), Code.InvalidArgument)
  }
}

function internally(context: string, action: () => void): void {
  try {
    action()
  } catch (error) {
    const reason = messageOf(error)
    throw new ConnectError(context ? `${context}: ${reason}` : reason, Code.Internal)
  }
}

function describe(path: string, state: AgentState): EntryInfo {
  try {
    return entryInfo(path, state.users)
  } catch (error) {
    const missing = errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR'
    const text = `${missing ? 'file not found' : 'error getting file info'}: ${messageOf(error)}`
    throw new ConnectError(text, missing ? Code.NotFound : Code.Internal)
  }
}

function followLinks(path: string): string {
  try {
    return realpathSync(path)
  } catch (error) {
    const code = errorCode(error)
    if (code === 'ENOENT') throw new ConnectError(`path not found: ${messageOf(error)}`, Code.NotFound)
    if (code === 'ELOOP') {
      const text = `cyclic symlink or chain >255 links at ${JSON.stringify(path)}`
      throw new ConnectError(text, Code.FailedPrecondition)
    }
    throw new ConnectError(`error resolving symlink: ${messageOf(error)}`, Code.Internal)
  }
}

/** Lexical order per directory, parents before children, links not followed. */
function walk(real: string, shown: string, depth: number, state: AgentState, entries: EntryInfo[]): void {
  const children = readdirSync(real, { withFileTypes: true }).sort(byName)
  for (const child of children) {
    const childReal = join(real, child.name)
    if (!lstatSync(childReal, { throwIfNoEntry: false })) continue
    const childShown = join(shown, child.name)
    entries.push({ ...entryInfo(childReal, state.users), path: childShown })
    if (depth > 1 && child.isDirectory()) walk(childReal, childShown, depth - 1, state, entries)
  }
}

function byName(left: Dirent, right: Dirent): number {
  return Buffer.compare(Buffer.from(left.name), Buffer.from(right.name))
}
