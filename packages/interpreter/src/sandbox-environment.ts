/** What the agent tells about the sandbox that these processes find themselves in. */
import { readFileSync } from 'node:fs'
import { request } from 'node:http'

export interface SandboxEnvironmentOptions {
  /** File that the agent rewrites at every start of a sandbox: `{"generation": "<uuid>"}`. */
  generationFile: string
  /** Port of the agent on 127.0.0.1. */
  agentPort: number
}

const ENVS_TIMEOUT_MS = 2000
const MAX_ENVS_BYTES = 4 * 1024 * 1024

export class SandboxEnvironment {
  readonly #options: SandboxEnvironmentOptions

  constructor(options: SandboxEnvironmentOptions) {
    this.#options = options
  }

  /**
   * Identity of this start of the sandbox. Another value than before means: this process was copied or resumed.
   * Empty outside a sandbox. A read of a few bytes from memory, so it is done synchronously, per execution.
   */
  generation(): string {
    try {
      const parsed: { generation?: unknown } = JSON.parse(readFileSync(this.#options.generationFile, 'utf8'))
      return String(parsed.generation ?? '')
    } catch {
      return ''
    }
  }

  /**
   * The sandbox-wide environment variables, or undefined when the agent does not give them (no agent, wrong
   * token). The token is passed on and never kept: this process may be captured and copied at any time.
   */
  variables(accessToken: string | undefined): Promise<Record<string, string> | undefined> {
    return new Promise((resolve) => {
      const call = request({
        host: '127.0.0.1',
        port: this.#options.agentPort,
        path: '/envs',
        agent: false,
        timeout: ENVS_TIMEOUT_MS,
        headers: accessToken === undefined ? {} : { 'x-access-token': accessToken },
      })
      call.on('error', () => resolve(undefined))
      call.on('timeout', () => call.destroy(new Error('timeout')))
      call.on('response', (response) => {
        let text = ''
        response.setEncoding('utf8')
        response.on('error', () => resolve(undefined))
        response.on('data', (chunk: string) => {
          text += chunk
          if (text.length > MAX_ENVS_BYTES) response.destroy(new Error('environment too large'))
        })
        response.on('end', () => resolve(response.statusCode === 200 ? parseVariables(text) : undefined))
      })
      call.end()
    })
  }
}

function parseVariables(text: string): Record<string, string> | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== 'object' || parsed === null) return undefined
    return Object.fromEntries(Object.entries(parsed).map(([name, value]) => [name, String(value)]))
  } catch {
    return undefined
  }
}
