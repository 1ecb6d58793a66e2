import { type Stats, statfsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { MessageInitShape } from '@bufbuild/protobuf'
import { Code, ConnectError, type HandlerContext } from '@connectrpc/connect'
import {
  EventType,
  type FilesystemEventSchema,
  type WatchDirResponseSchema,
} from '@sandbox/contract/gen/filesystem/filesystem_pb'
import { randomName } from '@sandbox/contract/ids'
import { follow, keepaliveMs, Subscription } from '../process/subscription.ts'
import type { AgentState } from '../state.ts'
import { errorText } from '../system/error-text.ts'
import { type DirectoryChange, DirectoryWatch } from './directory-watch.ts'
import { entryInfo } from './entry-info.ts'

type Event = MessageInitShape<typeof FilesystemEventSchema>
type Response = MessageInitShape<typeof WatchDirResponseSchema>

/** How a client wants a directory watched. */
export interface WatchRequest {
  readonly recursive: boolean
  readonly includeEntry: boolean
  readonly allowNetworkMounts: boolean
}

const NETWORK_FILE_SYSTEMS = new Set([0x6969, 0xff534d42, 0x517b, 0xfe534d42, 0x65735546])
const POLLED_EVENTS_LIMIT = 100_000
const WATCHERS_LIMIT = 256
const EVENT_SIZE_BYTES = 8
const CARRIES_ENTRY = new Set([EventType.CREATE, EventType.WRITE, EventType.CHMOD])

interface PolledWatcher {
  readonly watch: DirectoryWatch
  events: Event[]
  failure: ConnectError | undefined
}

/** Watches of directories, streamed or polled. */
export class WatchService {
  readonly #state: AgentState
  readonly #nativeDir: string
  readonly #polled = new Map<string, PolledWatcher>()
  readonly #watches = new Set<DirectoryWatch>()

  constructor(state: AgentState, nativeDir: string) {
    this.#state = state
    this.#nativeDir = nativeDir
  }

  /** Events of a directory until the client leaves. @throws ConnectError */
  async *stream(request: WatchRequest, directory: string, context: HandlerContext): AsyncGenerator<Response> {
    requireWatchable(directory, request)
    const subscription: Subscription<Response> = new Subscription(
      () => {},
      () => {},
    )
    const watch = this.#open(
      directory,
      request,
      (event) => {
        subscription.push({ event: { case: 'filesystem', value: event } }, EVENT_SIZE_BYTES)
        if (subscription.isFull) subscription.fail(watchFailure(new Error('the client reads too slowly')))
      },
      (error) => subscription.fail(watchFailure(error)),
    )
    try {
      await armed(watch, directory)
      yield { event: { case: 'start', value: {} } }
      yield* follow(subscription, {
        silenceMs: keepaliveMs(context.requestHeader),
        silence: (): Response => ({ event: { case: 'keepalive', value: {} } }),
        signal: context.signal,
      })
    } finally {
      this.#end(watch)
    }
  }

  /** Starts a watch that is polled with `drain`; returns its id. @throws ConnectError */
  async create(request: WatchRequest, directory: string): Promise<string> {
    requireWatchable(directory, request)
    if (this.#polled.size >= WATCHERS_LIMIT) {
      throw new ConnectError(`more than ${WATCHERS_LIMIT} watchers`, Code.ResourceExhausted)
    }
    const watch = this.#open(
      directory,
      request,
      (event) => {
        polled.events.push(event)
        if (polled.events.length < POLLED_EVENTS_LIMIT) return
        polled.failure = watchFailure(new Error('fsnotify: queue or buffer overflow'))
        polled.events = []
        watch.close()
      },
      (error) => {
        polled.failure = watchFailure(error)
      },
    )
    const polled: PolledWatcher = { watch, events: [], failure: undefined }
    try {
      await armed(watch, directory)
    } catch (error) {
      this.#end(watch)
      throw error
    }
    const id = `w${randomName(20)}`
    this.#polled.set(id, polled)
    return id
  }

  /** The events since the last call. @throws ConnectError not_found, or what ended the watch */
  drain(id: string): Event[] {
    const polled = this.#find(id)
    if (polled.failure) throw polled.failure
    return polled.events.splice(0)
  }

  /** @throws ConnectError not_found */
  remove(id: string): void {
    this.#end(this.#find(id).watch)
    this.#polled.delete(id)
  }

  /** Before memory is captured: inotify does not survive it. What changes until `resume` is not reported. */
  suspend(): void {
    for (const watch of this.#watches) watch.suspend()
  }

  /** Every watch sees changes again. Idempotent. */
  resume(): void {
    for (const watch of this.#watches) watch.resume()
  }

  /** Ends every polled watch. */
  close(): void {
    for (const id of [...this.#polled.keys()]) this.remove(id)
  }

  #find(id: string): PolledWatcher {
    const polled = this.#polled.get(id)
    if (!polled) throw new ConnectError(`watcher with id ${id} not found`, Code.NotFound)
    return polled
  }

  #open(
    directory: string,
    request: WatchRequest,
    onEvent: (event: Event) => void,
    onFailure: (error: Error) => void,
  ): DirectoryWatch {
    const options = { directory, recursive: request.recursive, nativeDir: this.#nativeDir }
    const watch = new DirectoryWatch(
      options,
      (change) => onEvent(this.#describe(change, directory, request)),
      onFailure,
    )
    this.#watches.add(watch)
    return watch
  }

  #end(watch: DirectoryWatch): void {
    watch.close()
    this.#watches.delete(watch)
  }

  #describe(change: DirectoryChange, directory: string, request: WatchRequest): Event {
    if (!request.includeEntry || !CARRIES_ENTRY.has(change.type)) return { ...change }
    try {
      return { ...change, entry: entryInfo(join(directory, change.name), this.#state.users) }
    } catch {
      return { ...change }
    }
  }
}

function watchFailure(error: Error): ConnectError {
  return new ConnectError(`watcher error: ${error.message}`, Code.Internal)
}

async function armed(watch: DirectoryWatch, directory: string): Promise<void> {
  try {
    await watch.armed
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error)
    throw new ConnectError(`error adding path ${directory} to watcher: ${reason}`, Code.Internal)
  }
}

function requireWatchable(directory: string, request: WatchRequest): void {
  let info: Stats | undefined
  try {
    info = statSync(directory, { throwIfNoEntry: false })
  } catch (error) {
    throw new ConnectError(`error statting path ${directory}: ${errorText(error)}`, Code.Internal)
  }
  if (!info) {
    const reason = `stat ${directory}: no such file or directory`
    throw new ConnectError(`path ${directory} not found: ${reason}`, Code.NotFound)
  }
  if (!info.isDirectory()) {
    throw new ConnectError(`path ${directory} not a directory`, Code.InvalidArgument)
  }
  if (!request.allowNetworkMounts && NETWORK_FILE_SYSTEMS.has(statfsSync(directory).type)) {
    throw new ConnectError(`cannot watch path on network filesystem: ${directory}`, Code.InvalidArgument)
  }
}
