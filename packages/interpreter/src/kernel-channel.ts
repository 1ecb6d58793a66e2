/**
 * The service's own connections to one kernel process, past Jupyter Server: requests on its shell socket, and what
 * it publishes. `pause` holds back reading what it publishes; the kernel then waits in its own output, so
 * that nothing piles up between it and a slow client. Lives as long as the process does.
 */
import { readFile } from 'node:fs/promises'
import type { ZmtpEndpoint } from '@sandbox/contract/zmtp'
import { decodeKernelMessage, encodeExecuteRequest, type KernelMessage } from './kernel-message.ts'
import { ZmtpConnection } from './zmtp-connection.ts'

export interface ChannelListener {
  onMessage(message: KernelMessage): void
  /** Called once when the kernel is gone and all that it had published has been handed over. */
  onClose(): void
}

/** What Jupyter Server writes for each kernel. */
interface ConnectionFile {
  transport: string
  ip: string
  shell_port: number
  iopub_port: number
  key: string
}

/** A subscription to everything: the command, and an empty prefix. */
const SUBSCRIBE = Buffer.from([1])

export class KernelChannel {
  readonly #shell: ZmtpConnection
  readonly #published: ZmtpConnection
  readonly #session: string
  readonly #key: string
  isPaused = false

  private constructor(shell: ZmtpConnection, published: ZmtpConnection, session: string, key: string) {
    this.#shell = shell
    this.#published = published
    this.#session = session
    this.#key = key
  }

  /**
   * Connects to the kernel that `connectionFile` (a path) describes. Rejects while it does not listen yet. A request
   * that follows at once may be answered before the kernel knows of the subscription.
   */
  static async open(
    connectionFile: string,
    session: string,
    listener: ChannelListener,
  ): Promise<KernelChannel> {
    const file: ConnectionFile = JSON.parse(await readFile(connectionFile, 'utf8'))
    const receive = (parts: Buffer[]): void => {
      const message = decode(parts)
      if (message !== undefined) listener.onMessage(message)
    }
    let shell: ZmtpConnection | undefined
    const published = await ZmtpConnection.connect(endpointOf(file, file.iopub_port), 'SUB', {
      onMessage: receive,
      onClose: () => {
        shell?.close()
        listener.onClose()
      },
    })
    published.send([SUBSCRIBE])
    try {
      // The end of the process is told by the other connection, behind its last message.
      shell = await ZmtpConnection.connect(endpointOf(file, file.shell_port), 'DEALER', {
        onMessage: receive,
        onClose: () => undefined,
      })
    } catch (error) {
      published.close()
      throw error
    }
    return new KernelChannel(shell, published, session, file.key)
  }

  get isOpen(): boolean {
    return this.#shell.isOpen && this.#published.isOpen
  }

  /** Bytes published so far. */
  get bytesPublished(): number {
    return this.#published.bytesRead
  }

  execute(id: string, code: string, silent: boolean): void {
    this.#shell.send(encodeExecuteRequest({ id, session: this.#session, code, silent }, this.#key))
  }

  pause(): void {
    this.isPaused = true
    this.#published.pause()
  }

  resume(): void {
    this.isPaused = false
    this.#published.resume()
  }

  close(): void {
    this.#shell.close()
    this.#published.close()
  }
}

/** Undefined for what is no message of Jupyter: an installed kernel may have faults, and the rest is still good. */
function decode(parts: Buffer[]): KernelMessage | undefined {
  try {
    return decodeKernelMessage(parts)
  } catch (error) {
    process.stderr.write(`a message of a kernel is left out: ${String(error)}\n`)
    return undefined
  }
}

function endpointOf(file: ConnectionFile, port: number): ZmtpEndpoint {
  return file.transport === 'ipc' ? { path: `${file.ip}-${port}` } : { host: file.ip, port }
}
