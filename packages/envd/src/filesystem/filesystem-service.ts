import { realpathSync, renameSync, statSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { Code, ConnectError, type HandlerContext, type ServiceImpl } from '@connectrpc/connect'
import type { Filesystem } from '@sandbox/contract/gen/filesystem/filesystem_pb'
import { requestUser } from '../request-user.ts'
import type { AgentState } from '../state.ts'
import { errorText } from '../system/error-text.ts'
import { ensureDirectory, errorCode, resolvePath } from '../system/paths.ts'
import type { User } from '../system/users.ts'
import { type EntryInfo, entryInfo } from './entry-info.ts'
import { listTree } from './list-tree.ts'
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
      const info = internally('error getting file info', () => statSync(path, { throwIfNoEntry: false }))
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
        const text = `${missing ? 'source file not found' : 'error renaming'}: ${errorText(error)}`
        throw new ConnectError(text, missing ? Code.NotFound : Code.Internal)
      }
      return { entry: describe(destination, state) }
    },

    async listDir(request, context) {
      const { path } = target(request.path, context)
      const real = followLinks(path)
      if (!statSync(real).isDirectory()) {
        throw new ConnectError(`path is not a directory: ${real}`, Code.InvalidArgument)
      }
      try {
        return { entries: await listTree(real, path, request.depth || 1, state.users) }
      } catch (error) {
        throw new ConnectError(`error reading directory ${real}: ${errorText(error)}`, Code.Internal)
      }
    },

    async remove(request, context) {
      await removeAll(target(request.path, context).path)
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

function resolveOrReject(path: string, user: User, defaultWorkdir: string | undefined): string {
  try {
    return resolvePath(path, user, defaultWorkdir)
  } catch (error) {
    throw new ConnectError(errorText(error), Code.InvalidArgument)
  }
}

function internally<T>(context: string, action: () => T): T {
  try {
    return action()
  } catch (error) {
    const reason = errorText(error)
    throw new ConnectError(context ? `${context}: ${reason}` : reason, Code.Internal)
  }
}

function describe(path: string, state: AgentState): EntryInfo {
  try {
    return entryInfo(path, state.users)
  } catch (error) {
    const missing = errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR'
    const text = `${missing ? 'file not found' : 'error getting file info'}: ${errorText(error)}`
    throw new ConnectError(text, missing ? Code.NotFound : Code.Internal)
  }
}

function followLinks(path: string): string {
  try {
    return realpathSync(path)
  } catch (error) {
    const code = errorCode(error)
    if (code === 'ENOENT') throw new ConnectError(`path not found: ${errorText(error)}`, Code.NotFound)
    if (code === 'ELOOP') {
      const text = `cyclic symlink or chain >255 links at ${JSON.stringify(path)}`
      throw new ConnectError(text, Code.FailedPrecondition)
    }
    throw new ConnectError(`error resolving symlink: ${errorText(error)}`, Code.Internal)
  }
}

/** What is not there is no error. A link is removed, also when a slash follows its name, never what it leads to. */
async function removeAll(path: string): Promise<void> {
  try {
    if (path.endsWith('/.')) throw new Error(`RemoveAll ${path}: invalid argument`)
    await rm(path.replace(/(?<=.)\/+$/, ''), { recursive: true, force: true })
  } catch (error) {
    throw new ConnectError(`error removing file or directory: ${errorText(error)}`, Code.Internal)
  }
}
