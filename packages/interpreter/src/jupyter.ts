/**
 * Jupyter Server's REST API, as far as contexts need it. The server listens on a Unix socket: such a connection
 * is part of a memory snapshot and lives on in every copy, where TCP connections are cut.
 */
import { Agent, request } from 'node:http'
import { join } from 'node:path'

export interface JupyterAddress {
  /** Path of the Unix socket that Jupyter Server listens on. */
  socketPath: string
  /** Directory where Jupyter Server writes how each kernel is reached. */
  connectionDir: string
}

export interface Kernel {
  id: string
  name: string
}

/** Jupyter Server answered with an error, or not at all (`status` 0). The message is fit for the user. */
export class JupyterError extends Error {
  override readonly name = 'JupyterError'
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

const REQUEST_TIMEOUT_MS = 60_000
const MAX_SOCKETS = 8

export class JupyterClient {
  readonly #address: JupyterAddress
  readonly #agent = new Agent({ keepAlive: true, maxSockets: MAX_SOCKETS })

  constructor(address: JupyterAddress) {
    this.#address = address
  }

  /** Path of the file that tells how the kernel is reached. */
  connectionFile(id: string): string {
    return join(this.#address.connectionDir, `kernel-${id}.json`)
  }

  /** Starts a kernel and returns its id once the process runs (it may not answer yet). */
  async startKernel(name: string): Promise<string> {
    const kernel: Kernel = JSON.parse(await this.#call('POST', '/api/kernels', { name }))
    return kernel.id
  }

  async listKernels(): Promise<Kernel[]> {
    return JSON.parse(await this.#call('GET', '/api/kernels'))
  }

  /** Asks for the one: a list with others that are just starting in it is answered with an error. */
  async knowsKernel(id: string): Promise<boolean> {
    try {
      await this.#call('GET', `/api/kernels/${id}`)
      return true
    } catch (error) {
      if (error instanceof JupyterError && error.status === 404) return false
      throw error
    }
  }

  /** Names of the installed kernelspecs. */
  async kernelNames(): Promise<string[]> {
    const specs: { kernelspecs: Record<string, unknown> } = JSON.parse(
      await this.#call('GET', '/api/kernelspecs'),
    )
    return Object.keys(specs.kernelspecs)
  }

  /** Sends the kernel an interrupt (SIGINT, or a message where the kernelspec says so). */
  async interruptKernel(id: string): Promise<void> {
    await this.#call('POST', `/api/kernels/${id}/interrupt`)
  }

  /** Restarts the kernel under the same id; resolves when the new process answers. */
  async restartKernel(id: string): Promise<void> {
    await this.#call('POST', `/api/kernels/${id}/restart`)
  }

  /** Ends the kernel. A kernel that is gone already is no error. */
  async removeKernel(id: string): Promise<void> {
    try {
      await this.#call('DELETE', `/api/kernels/${id}`)
    } catch (error) {
      if (!(error instanceof JupyterError) || error.status !== 404) throw error
    }
  }

  close(): void {
    this.#agent.destroy()
  }

  #call(method: string, path: string, body?: unknown): Promise<string> {
    const payload = body === undefined ? undefined : JSON.stringify(body)
    return new Promise((resolve, reject) => {
      const call = request({
        socketPath: this.#address.socketPath,
        agent: this.#agent,
        method,
        path,
        timeout: REQUEST_TIMEOUT_MS,
        headers:
          payload === undefined
            ? {}
            : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) },
      })
      call.on('response', (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', (chunk: string) => {
          text += chunk
        })
        response.on('error', reject)
        response.on('end', () => {
          const status = response.statusCode ?? 0
          if (status >= 200 && status < 300) resolve(text)
          else reject(new JupyterError(status, `Jupyter Server answered ${status}: ${explain(text)}`))
        })
      })
      call.on('timeout', () => call.destroy(new Error('no answer in time')))
      call.on('error', (error) =>
        reject(new JupyterError(0, `Jupyter Server does not answer: ${error.message}`)),
      )
      call.end(payload)
    })
  }
}

function explain(body: string): string {
  try {
    const parsed: { message?: unknown; reason?: unknown } = JSON.parse(body)
    return String(parsed.reason || parsed.message || body)
  } catch {
    return body.slice(0, 500)
  }
}
