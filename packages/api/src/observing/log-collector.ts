import { timestampMs } from '@bufbuild/protobuf/wkt'
import type { SandboxLogBatch } from '@sandbox/contract/gen/host/host_pb'
import type { LogLevel } from '@sandbox/contract/rest/logs'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import { waitUnlessAborted } from '../abortable-wait.ts'
import type { HostEndpoint } from '../options.ts'
import type { RunningSandboxes } from '../sandboxes/running.ts'
import type { SandboxLogs } from './sandbox-logs.ts'

const FIRST_RETRY_MS = 100
const MAX_RETRY_MS = 5_000
/** `logger` of lines about the life of a sandbox; guests do not write under this name. */
const OWN_LOGGER = 'sandbox'
const AGENT_LOGGER = 'envd'

export interface LogCollectorParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly logs: SandboxLogs
  readonly logger: Logger
}

/** Takes what the agents on one host report into the logs of their sandboxes. */
export class LogCollector {
  readonly #host: HostEndpoint
  readonly #parts: LogCollectorParts
  readonly #abort = new AbortController()
  #finished: Promise<void> | undefined

  constructor(host: HostEndpoint, parts: LogCollectorParts) {
    this.#host = host
    this.#parts = parts
  }

  start(): void {
    this.#finished = this.#follow()
  }

  async stop(): Promise<void> {
    this.#abort.abort()
    await this.#finished
  }

  async #follow(): Promise<void> {
    const { signal } = this.#abort
    let retryMs = FIRST_RETRY_MS
    while (!signal.aborted) {
      try {
        for await (const batch of this.#host.client.collectLogs({}, { signal })) {
          retryMs = FIRST_RETRY_MS
          await this.#take(batch)
        }
      } catch (error) {
        const hostId = this.#host.id
        if (!signal.aborted) this.#parts.logger.warn({ err: error, hostId }, 'sandbox logs not collected')
      }
      await waitUnlessAborted(retryMs, signal)
      retryMs = Math.min(retryMs * 2, MAX_RETRY_MS)
    }
  }

  async #take({ sandboxId, lines }: SandboxLogBatch): Promise<void> {
    const { store, running, logs } = this.#parts
    const teamId = running.get(sandboxId)?.teamId ?? (await store.sandboxes.findById(sandboxId))?.teamId
    if (teamId === undefined) return
    for (const { at, level, message, fields } of lines) {
      const logger = fields.logger && fields.logger !== OWN_LOGGER ? fields.logger : AGENT_LOGGER
      logs.add({
        sandboxId,
        teamId,
        level: levelOf(level),
        message,
        fields: { ...fields, logger, service: AGENT_LOGGER },
        ...(at ? { atMs: timestampMs(at) } : {}),
      })
    }
  }
}

const levelOf = (text: string): LogLevel =>
  text === 'debug' || text === 'warn' || text === 'error' ? text : 'info'
