import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process'
import { join } from 'node:path'
import { EventType } from '@sandbox/contract/gen/filesystem/filesystem_pb'

/** One change below a watched directory; `name` is relative to it, `.` is the directory itself. */
export interface DirectoryChange {
  readonly name: string
  readonly type: EventType
}

const ARMED = 0
const FAILED = 0xffffffff
const OVERFLOW = 0x4000
const HEADER_BYTES = 8

/** inotify bits of each kind, in the order in which one event is split. */
const KINDS: readonly (readonly [EventType, number])[] = [
  [EventType.CREATE, 0x100 | 0x80],
  [EventType.RENAME, 0x40 | 0x800],
  [EventType.CHMOD, 0x4],
  [EventType.WRITE, 0x2],
  [EventType.REMOVE, 0x200 | 0x400],
]

/** Which directory, and where the native program is. */
export interface WatchOptions {
  readonly directory: string
  readonly recursive: boolean
  readonly nativeDir: string
}

/**
 * Watches a directory through the native program `watch`. It waits in the kernel, so an idle watch costs nothing,
 * and it is a process of its own, so a lost one cannot harm the agent.
 */
export class DirectoryWatch {
  /** Resolves when changes from now on are seen. Rejects when the directory cannot be watched. */
  readonly armed: Promise<void>
  readonly #options: WatchOptions
  readonly #onChange: (change: DirectoryChange) => void
  readonly #onFailure: (error: Error) => void
  #child: ChildProcess | undefined
  #buffered: Buffer = Buffer.alloc(0)
  #armed: (failure?: Error) => void = () => {}
  #closed = false

  constructor(
    options: WatchOptions,
    onChange: (change: DirectoryChange) => void,
    onFailure: (error: Error) => void,
  ) {
    this.#options = options
    this.#onChange = onChange
    this.#onFailure = onFailure
    this.armed = new Promise((resolve, reject) => {
      this.#armed = (failure) => (failure ? reject(failure) : resolve())
    })
    this.resume()
  }

  /** Ends the watch. Idempotent. */
  close(): void {
    this.#closed = true
    this.suspend()
  }

  /** Sees nothing until `resume`, and holds nothing in the kernel that a memory image could not carry. */
  suspend(): void {
    const child = this.#child
    this.#child = undefined
    child?.kill('SIGKILL')
  }

  /** Sees changes again after `suspend`. */
  resume(): void {
    if (this.#closed || this.#child) return
    const { recursive, directory, nativeDir } = this.#options
    const args = [...(recursive ? ['-r'] : []), directory]
    const options: SpawnOptions = { stdio: ['pipe', 'pipe', 'ignore'], env: {} }
    const child = spawn(join(nativeDir, 'watch'), args, options)
    this.#child = child
    this.#buffered = Buffer.alloc(0)
    // It has no pipes when the agent has no descriptors left for them; the error that says so comes later.
    child.stdout?.on('data', (chunk: Buffer) => {
      if (this.#child === child) this.#read(chunk)
    })
    child.stdin?.on('error', () => {})
    const lost = (error: Error): void => {
      if (this.#child === child) this.#fail(error)
    }
    child.once('error', lost)
    child.once('close', () => lost(new Error('watcher event channel closed')))
  }

  #fail(error: Error): void {
    if (this.#closed) return
    this.close()
    this.#armed(error)
    this.#onFailure(error)
  }

  #read(chunk: Buffer): void {
    this.#buffered = this.#buffered.length === 0 ? chunk : Buffer.concat([this.#buffered, chunk])
    let at = 0
    while (this.#buffered.length - at >= HEADER_BYTES) {
      const mask = this.#buffered.readUInt32LE(at)
      const length = this.#buffered.readUInt32LE(at + 4)
      if (this.#buffered.length - at < HEADER_BYTES + length) break
      this.#handle(mask, this.#buffered.toString('utf8', at + HEADER_BYTES, at + HEADER_BYTES + length))
      at += HEADER_BYTES + length
    }
    this.#buffered = this.#buffered.subarray(at)
  }

  #handle(mask: number, name: string): void {
    if (this.#closed) return
    if (mask === ARMED) this.#armed()
    else if (mask === FAILED) this.#fail(new Error(`inotify failed with errno ${name}`))
    else if (mask & OVERFLOW) this.#fail(new Error('fsnotify: queue or buffer overflow'))
    else {
      for (const [type, bits] of KINDS) if (mask & bits) this.#onChange({ name: name || '.', type })
    }
  }
}
