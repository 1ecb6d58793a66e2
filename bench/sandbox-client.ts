import { Agent, request } from 'node:http'
import { ENVD_PORT, INTERPRETER_PORT } from '@sandbox/contract/ports'

/** The thinnest client there is: plain HTTP on kept-alive connections, so that what is measured is the server. */

export interface BenchSandbox {
  readonly id: string
  readonly accessToken: string | undefined
}

export interface Ports {
  readonly apiPort: number
  readonly proxyPort: number
}

/** The first start of a template on an engine boots it and captures its memory. */
const ANSWER_WITHIN_MS = 120_000
/** The longest that a sandbox outlives a benchmark that was cut short, in seconds. */
const TIMEOUT_SECONDS = 300

export class SandboxClient {
  readonly #ports: Ports
  readonly #apiKey: string
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 64 })

  constructor(ports: Ports, apiKey: string) {
    this.#ports = ports
    this.#apiKey = apiKey
  }

  async create(templateID: string): Promise<BenchSandbox> {
    const body = await this.#call(201, {
      method: 'POST',
      port: this.#ports.apiPort,
      path: '/sandboxes',
      headers: { 'X-API-KEY': this.#apiKey },
      json: { templateID, timeout: TIMEOUT_SECONDS },
    })
    const answer = JSON.parse(body) as { sandboxID: string; envdAccessToken?: string }
    return { id: answer.sandboxID, accessToken: answer.envdAccessToken }
  }

  /** Asks the agent through the edge. */
  async health(sandbox: BenchSandbox): Promise<void> {
    await this.#call(204, {
      method: 'GET',
      port: this.#ports.proxyPort,
      path: '/health',
      headers: routed(sandbox, ENVD_PORT),
    })
  }

  /** Asks the agent at the address of its slot. */
  async healthAt(address: string): Promise<void> {
    await this.#call(204, { method: 'GET', host: address, port: ENVD_PORT, path: '/health', headers: {} })
  }

  /** Runs code through the edge and port 49999; answers the text of its result. */
  async runCode(sandbox: BenchSandbox, code: string): Promise<string | undefined> {
    const body = await this.#call(200, {
      method: 'POST',
      port: this.#ports.proxyPort,
      path: '/execute',
      headers: routed(sandbox, INTERPRETER_PORT),
      json: { code },
    })
    const messages = body.split('\n').filter(Boolean)
    const result = messages.map((line) => JSON.parse(line) as { type: string; text?: string })
    return result.find(({ type }) => type === 'result')?.text
  }

  async pause(sandbox: BenchSandbox): Promise<void> {
    await this.#change(sandbox, 204, 'POST', '/pause', {})
  }

  /** Goes on where it was paused. */
  async resume(sandbox: BenchSandbox): Promise<void> {
    await this.#change(sandbox, 201, 'POST', '/connect', { timeout: TIMEOUT_SECONDS })
  }

  async kill(sandbox: BenchSandbox): Promise<void> {
    await this.#change(sandbox, 204, 'DELETE', '')
  }

  async #change(
    sandbox: BenchSandbox,
    expectedStatus: number,
    method: Call['method'],
    action: string,
    json?: object,
  ): Promise<void> {
    await this.#call(expectedStatus, {
      ...{ method, json },
      port: this.#ports.apiPort,
      path: `/sandboxes/${sandbox.id}${action}`,
      headers: { 'X-API-KEY': this.#apiKey },
    })
  }

  close(): void {
    this.#agent.destroy()
  }

  #call(expectedStatus: number, call: Call): Promise<string> {
    const { method, host = '127.0.0.1', port, path, headers, json } = call
    const body = json === undefined ? undefined : JSON.stringify(json)
    const contentType = body === undefined ? {} : { 'content-type': 'application/json' }
    return new Promise((resolve, reject) => {
      const outgoing = request({
        agent: this.#agent,
        host,
        port,
        method,
        path,
        headers: { ...headers, ...contentType },
        signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
      })
      outgoing.on('error', reject)
      outgoing.on('response', (incoming) => {
        let text = ''
        incoming.setEncoding('utf8')
        incoming.on('error', reject)
        incoming.on('data', (chunk: string) => {
          text += chunk
        })
        incoming.on('end', () => {
          if (incoming.statusCode === expectedStatus) resolve(text)
          else reject(new Error(`${method} ${path} was answered with ${incoming.statusCode}: ${text}`))
        })
      })
      outgoing.end(body)
    })
  }
}

interface Call {
  method: 'GET' | 'POST' | 'DELETE'
  host?: string
  port: number
  path: string
  headers: Record<string, string>
  json?: unknown
}

const routed = (sandbox: BenchSandbox, port: number): Record<string, string> => ({
  'E2b-Sandbox-Id': sandbox.id,
  'E2b-Sandbox-Port': String(port),
  ...(sandbox.accessToken === undefined ? {} : { 'X-Access-Token': sandbox.accessToken }),
})
