import { type ChildProcess, spawn } from 'node:child_process'
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

/**
 * Watches a directory through the native program `watch`. It waits in the kernel, so an idle watch costs nothing,
 * and it is a process of its own, so a lost one cannot harm the agent.
 */
export class DirectoryWatch {
  readonly #child: ChildProcess
  #buffered: Buffer = Buffer.alloc(0)
  #armed: (failure?: Error) => void = () => {}
  /** Resolves when changes from now on are seen. Rejects when the directory cannot be watched. */
  readonly armed: Promise<void>
  readonly #onChange: (change: DirectoryChange) => void
  readonly #onFailure: (error: Error) => void
  #closed = false

  constructor(
    options: { directory: string; recursive: boolean; nativeDir: string },
    onChange: (change: DirectoryChange) => void,
    onFailure: (error: Error) => void,
  ) {
    this.#onChange = onChange
    this.#onFailure = onFailure
    this.armed = new Promise((resolve, reject) => {
      this.#armed = (failure) => (failure ? reject(failure) : resolve())
    })
    const args = [...(options.recursive ? ['-r'] : []), options.directory]
    this.#child = spawn(join(options.nativeDir, 'watch'), args, {
      stdio: ['pipe', 'pipe', 'ignore'],
      env: {},
    })
    this.#child.stdout?.on('data', (chunk: Buffer) => this.#read(chunk))
    this.#child.stdin?.on('error', () => {})
    this.#child.once('error', (error) => this.#fail(error))
    this.#child.once('close', () => this.#fail(new Error('watcher event channel closed')))
  }

  /** Ends the watch. Idempotent. */
  close(): void {
    this.#closed = true
    this.#child.kill('SIGKILL')
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
