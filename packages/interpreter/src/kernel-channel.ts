/**
 * One websocket to one kernel: sends execute requests, hands every kernel message to a listener in order.
 * `pause` holds back reading, so that a slow client slows the stream instead of filling this process's memory.
 */
import { WebSocket } from 'ws'
import type { JupyterAddress } from './jupyter.ts'
import {
  decodeKernelMessage,
  encodeExecuteRequest,
  KERNEL_SUBPROTOCOL,
  type KernelMessage,
} from './kernel-message.ts'

export interface ChannelListener {
  onMessage(message: KernelMessage): void
  /** Called once when the connection ends for whatever reason. */
  onClose(): void
}

const OPEN_TIMEOUT_MS = 30_000
const MAX_FRAME_BYTES = 1024 * 1024 * 1024

export class KernelChannel {
  readonly #socket: WebSocket
  readonly #session: string

  private constructor(socket: WebSocket, session: string) {
    this.#socket = socket
    this.#session = session
  }

  /**
   * Opens the channel. `session` must differ from that of every other open channel of the kernel.
   * Rejects when Jupyter Server is away or does not know the kernel.
   */
  static open(
    address: JupyterAddress,
    kernelId: string,
    session: string,
    listener: ChannelListener,
  ): Promise<KernelChannel> {
    const url = `ws+unix:${address.socketPath}:/api/kernels/${kernelId}/channels?session_id=${session}`
    const socket = new WebSocket(url, [KERNEL_SUBPROTOCOL], {
      perMessageDeflate: false,
      skipUTF8Validation: true,
      maxPayload: MAX_FRAME_BYTES,
      handshakeTimeout: OPEN_TIMEOUT_MS,
    })
    socket.on('message', (data: Buffer, isBinary: boolean) => {
      if (isBinary) listener.onMessage(decodeKernelMessage(data))
    })
    return new Promise((resolve, reject) => {
      socket.once('open', () => {
        socket.once('close', () => listener.onClose())
        resolve(new KernelChannel(socket, session))
      })
      // Later errors are followed by a close, which the listener hears of.
      socket.on('error', reject)
    })
  }

  get isOpen(): boolean {
    return this.#socket.readyState === WebSocket.OPEN
  }

  execute(id: string, code: string, silent: boolean): void {
    this.#socket.send(encodeExecuteRequest({ id, session: this.#session, code, silent }))
  }

  pause(): void {
    if (this.isOpen) this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  close(): void {
    this.#socket.terminate()
  }
}
