import { Agent, type IncomingMessage, request } from 'node:http'
import { GUEST_PROBED_AFTER_MS } from '@sandbox/contract/guest-connections'
import { ENVD_PORT } from '@sandbox/contract/ports'
import { HostError } from '../host-error.ts'

/** Body of the agent's `POST /init`: what makes a clone its own. What is left out stays as it is. */
export interface InitBody {
  envVars: Record<string, string>
  accessToken?: string
  defaultUser: string
  defaultWorkdir: string
  hostname: string
  /** 32 hex digits. */
  machineId?: string
  /** UUID shown as the kernel's boot id. */
  bootId?: string
  /** New UUID for every start; services in the sandbox reseed when it changes. */
  generation?: string
  sandboxId: string
  templateId: string
  /** IPv4 address at which this host takes what the sandbox reports. */
  hyperloopIP?: string
  /** Hex entropy for every user-space generator. */
  reseed?: string
  /** Processes and threads that one user of the sandbox may have. */
  maxProcesses?: number
  /** Processes and threads of all its users, the agent's among them. */
  maxTasks?: number
  /** Memory that the sandbox may use. */
  memoryMib?: number
}

export interface AgentAnswer {
  status: number
  body: string
}

interface Call {
  method: 'GET' | 'POST'
  path: string
  port?: number
  json?: unknown
  timeoutMs: number
  signal?: AbortSignal
}

/** An answer larger than this is an error: the agent is the guest's, its answers are not trusted. */
const LONGEST_ANSWER_BYTES = 64 * 1024
/** Refused connections that are repeated at once before a pause goes between them. */
const IMMEDIATE_RETRIES = 20
const LONGEST_PAUSE_MS = 20

/** HTTP to the services of one sandbox over kept-alive connections, which end with it. */
export class AgentClient {
  readonly address: string
  readonly #port: number
  readonly #timeScale: number
  readonly #limits: Pick<InitBody, 'maxProcesses' | 'maxTasks' | 'memoryMib'>
  readonly #agent = new Agent({ keepAlive: true, keepAliveMsecs: GUEST_PROBED_AFTER_MS, maxSockets: 4 })
  #closed = false

  /**
   * @param address under which this machine reaches the sandbox
   * @param limits told with every `init`
   * @param timeScale multiplies every time-out, where sandboxes or this machine are emulated
   */
  constructor(
    address: string,
    port = ENVD_PORT,
    limits: Pick<InitBody, 'maxProcesses' | 'maxTasks' | 'memoryMib'> = {},
    timeScale = 1,
  ) {
    this.address = address
    this.#port = port
    this.#limits = limits
    this.#timeScale = timeScale
  }

  /** Waits until the agent answers, repeating failed connections. @throws HostError failed after `withinMs` */
  async waitHealthy(withinMs: number): Promise<void> {
    const answer = await this.#persist({ method: 'GET', path: '/health', timeoutMs: withinMs }, withinMs)
    if (answer.status !== 204)
      throw new HostError('failed', `the agent answered /health with ${answer.status}`)
  }

  /** @throws HostError failed when the agent does not accept within `withinMs` */
  async init(body: InitBody, withinMs: number): Promise<void> {
    // As late as it is sent: a guest that boots may keep this waiting.
    const json = { toJSON: () => ({ ...this.#limits, ...body, clockMs: Date.now() }) }
    const call = { method: 'POST', path: '/init', json, timeoutMs: withinMs } as const
    const answer = await this.#persist(call, withinMs)
    if (answer.status !== 204) {
      throw new HostError(
        'failed',
        `the agent answered /init with ${answer.status}: ${answer.body.slice(0, 300)}`,
      )
    }
  }

  /** One request, no repeats. Rejects with the connection's error. */
  send(call: Call): Promise<AgentAnswer> {
    return new Promise((resolve, reject) => {
      const body = call.json === undefined ? undefined : JSON.stringify(call.json)
      const timeout = AbortSignal.timeout(call.timeoutMs * this.#timeScale)
      const outgoing = request({
        agent: this.#agent,
        host: this.address,
        port: call.port ?? this.#port,
        method: call.method,
        path: call.path,
        headers: body === undefined ? {} : jsonHeaders(body),
        signal: call.signal ? AbortSignal.any([call.signal, timeout]) : timeout,
      })
      outgoing.once('error', reject)
      outgoing.once('response', (incoming) => readAnswer(incoming).then(resolve, reject))
      outgoing.end(body)
    })
  }

  /** Drops idle connections, which would not outlive a freeze; new ones are made when needed. */
  disconnect(): void {
    this.#agent.destroy()
  }

  /** Ends all connections. Idempotent. */
  close(): void {
    this.#closed = true
    this.#agent.destroy()
  }

  /**
   * Repeats while the connection fails, driven by its failing: at once at first (a restored listener is there, only
   * its route may settle), then with growing pauses (a cold boot takes a while).
   */
  async #persist(call: Call, withinMs: number): Promise<AgentAnswer> {
    const endsAtMs = performance.now() + withinMs * this.#timeScale
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.send({ ...call, timeoutMs: Math.max(1, Math.ceil(endsAtMs - performance.now())) })
      } catch (error) {
        if (this.#closed) throw new HostError('failed', 'the sandbox ended while it was being started', error)
        if (!isConnectionFailure(error) || performance.now() >= endsAtMs) {
          throw new HostError(
            'failed',
            `the agent at ${this.address} did not answer within ${withinMs} ms`,
            error,
          )
        }
        await pauseBeforeAttempt(attempt)
      }
    }
  }
}

const jsonHeaders = (body: string): Record<string, string | number> => ({
  'Content-Type': 'application/json',
  'Content-Length': Buffer.byteLength(body),
})

const FAILURES = new Set(['ECONNREFUSED', 'ECONNRESET', 'EPIPE', 'EHOSTUNREACH', 'ENETUNREACH', 'ETIMEDOUT'])

function isConnectionFailure(error: unknown): boolean {
  return error instanceof Error && 'code' in error && FAILURES.has(String(error.code))
}

function pauseBeforeAttempt(attempt: number): Promise<void> {
  if (attempt < IMMEDIATE_RETRIES) return new Promise((resolve) => setImmediate(resolve))
  const pauseMs = Math.min(LONGEST_PAUSE_MS, attempt - IMMEDIATE_RETRIES + 1)
  return new Promise((resolve) => setTimeout(resolve, pauseMs))
}

async function readAnswer(incoming: IncomingMessage): Promise<AgentAnswer> {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    size += chunk.length
    if (size > LONGEST_ANSWER_BYTES) throw new HostError('failed', 'the agent answered with too large a body')
    chunks.push(chunk)
  }
  return { status: incoming.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') }
}
