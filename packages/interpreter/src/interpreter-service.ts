/** The code interpreter's HTTP interface on port 49999: routes, CORS, errors as text. */
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http'
import type { Context } from './context.ts'
import { Contexts } from './contexts.ts'
import { JupyterClient } from './jupyter.ts'
import { normalizeLanguage } from './languages.ts'
import { NdjsonStream } from './ndjson-stream.ts'
import { RequestError, readCreateContextBody, readExecuteBody } from './request-body.ts'
import { SandboxEnvironment } from './sandbox-environment.ts'

export interface InterpreterOptions {
  host: string
  /** 0 takes any free port. */
  port: number
  /** Unix socket of Jupyter Server. */
  jupyterSocket: string
  /** Directory where Jupyter Server writes how each kernel is reached. */
  connectionDir: string
  /** Port of the agent on 127.0.0.1. */
  agentPort: number
  /** File with the identity of this start of the sandbox. */
  generationFile: string
  defaultCwd: string
  /** Languages whose default kernel is started ahead; the first must be installed. */
  preload: readonly string[]
  keepaliveMs: number
}

const REHEARSALS = 10
const REHEARSAL_TIMEOUT_MS = 5000
const CONTEXT_PATH = /^\/contexts\/([^/]+)(\/restart)?$/

export class InterpreterService {
  readonly #options: InterpreterOptions
  readonly #jupyter: JupyterClient
  readonly #contexts: Contexts
  readonly #server: Server
  #isRehearsed = false

  constructor(options: InterpreterOptions) {
    this.#options = options
    this.#jupyter = new JupyterClient({
      socketPath: options.jupyterSocket,
      connectionDir: options.connectionDir,
    })
    this.#contexts = new Contexts(this.#jupyter, new SandboxEnvironment(options), options)
    this.#server = createServer({ noDelay: true, requestTimeout: 0 }, (request, response) => {
      this.#handle(request, response).catch((error) => answerError(response, error))
    })
  }

  /** Listens at once; `/health` answers 200 when the preloaded kernels have answered. Resolves to the port. */
  async listen(): Promise<number> {
    const started = this.#contexts.start()
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.once('error', reject)
      this.#server.listen(this.#options.port, this.#options.host, () => {
        const address = this.#server.address()
        resolve(typeof address === 'object' && address !== null ? address.port : this.#options.port)
      })
    })
    void started
      .then(() => rehearse(port))
      .catch(() => undefined)
      .finally(() => {
        this.#isRehearsed = true
      })
    return port
  }

  close(): void {
    this.#contexts.close()
    this.#jupyter.close()
    this.#server.close()
    this.#server.closeAllConnections()
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? '/').split('?', 1)[0] ?? '/'
    const method = request.method ?? 'GET'
    allowAnyOrigin(request, response)
    if (method === 'OPTIONS') return void response.writeHead(200).end()
    if (path === '/health' && (method === 'GET' || method === 'HEAD')) return this.#health(response)
    if (path === '/execute' && method === 'POST') return this.#execute(request, response)
    if (path === '/contexts' && method === 'GET') return answerJson(response, this.#contexts.list())
    if (path === '/contexts' && method === 'POST') return this.#createContext(request, response)
    const [, id, restart] = CONTEXT_PATH.exec(path) ?? []
    if (id !== undefined && restart !== undefined && method === 'POST') return this.#restart(id, response)
    if (id !== undefined && restart === undefined && method === 'DELETE') return this.#remove(id, response)
    throw new RequestError(404, 'Not Found')
  }

  #health(response: ServerResponse): void {
    if (this.#contexts.isReady && this.#isRehearsed) answerJson(response, 'OK')
    else answerText(response, 503, 'The default kernels are not up yet')
  }

  async #execute(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController()
    response.once('close', () => gone.abort())
    const body = await readExecuteBody(request)
    if (body.contextId !== undefined && body.language !== undefined) {
      throw new RequestError(400, 'Only one of context_id or language can be provided')
    }
    const context = await this.#contextFor(body.contextId, body.language)
    const accessToken = request.headers['x-access-token']
    const stream = new NdjsonStream(response, this.#options.keepaliveMs)
    await context.execute(
      {
        code: body.code,
        env: body.env,
        accessToken: typeof accessToken === 'string' ? accessToken : undefined,
      },
      stream,
      gone.signal,
    )
    stream.end()
  }

  async #contextFor(id: string | undefined, language: string | undefined): Promise<Context> {
    if (id !== undefined) return this.#known(id)
    return this.#contexts.defaultFor(normalizeLanguage(language))
  }

  async #createContext(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const body = await readCreateContextBody(request)
    const context = await this.#contexts.create(normalizeLanguage(body.language), body.cwd)
    answerJson(response, context.info)
  }

  async #restart(id: string, response: ServerResponse): Promise<void> {
    const context = await this.#known(id)
    try {
      await context.restart()
    } catch {
      throw new RequestError(500, `Failed to restart context ${id}`)
    }
    answerJson(response, null)
  }

  async #remove(id: string, response: ServerResponse): Promise<void> {
    const context = await this.#known(id)
    try {
      await this.#contexts.remove(context)
    } catch {
      throw new RequestError(500, `Failed to remove context ${id}`)
    }
    answerJson(response, null)
  }

  async #known(id: string): Promise<Context> {
    const context = await this.#contexts.get(id)
    if (context === undefined) throw new RequestError(404, `Context ${id} not found`)
    return context
  }
}

/** Runs nothing a few times, so that a copy of this process has loaded and compiled what the first code needs. */
async function rehearse(port: number): Promise<void> {
  for (let time = 0; time < REHEARSALS; time += 1) {
    await new Promise<void>((resolve, reject) => {
      const headers = { 'content-type': 'application/json' }
      const call = request({
        host: '127.0.0.1',
        port,
        path: '/execute',
        method: 'POST',
        headers,
        agent: false,
      })
      call.setTimeout(REHEARSAL_TIMEOUT_MS, () => call.destroy(new Error('timeout')))
      call.on('error', reject)
      call.on('response', (response) => response.on('error', reject).on('end', resolve).resume())
      call.end(JSON.stringify({ code: '' }))
    })
  }
}

function allowAnyOrigin(request: IncomingMessage, response: ServerResponse): void {
  response.setHeader('access-control-allow-origin', '*')
  if (request.method !== 'OPTIONS') return
  response.setHeader('access-control-allow-methods', 'DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT')
  response.setHeader('access-control-allow-headers', request.headers['access-control-request-headers'] ?? '*')
  response.setHeader('access-control-max-age', '600')
}

function answerJson(response: ServerResponse, value: unknown): void {
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(value))
}

function answerText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' }).end(text)
}

function answerError(response: ServerResponse, error: unknown): void {
  if (response.headersSent) return void response.destroy()
  const status = error instanceof RequestError ? error.status : 500
  answerText(response, status, error instanceof Error ? error.message : String(error))
}
