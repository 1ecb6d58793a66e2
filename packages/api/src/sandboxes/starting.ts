import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { Code, ConnectError } from '@connectrpc/connect'
import { ApiError } from '@sandbox/contract/errors'
import {
  OnEnd,
  type SandboxConfigSchema,
  type StartRequest,
  StartRequestSchema,
} from '@sandbox/contract/gen/host/host_pb'
import type { Logger } from 'pino'
import type { HostEndpoint } from '../options.ts'
import type { Hosts } from './hosts.ts'

export interface StartOrder {
  readonly sandboxId: string
  readonly snapshotId: string
  readonly endAt: number
  readonly pauseAtEnd: boolean
  /** Whether the pause at the end keeps memory. */
  readonly pauseMemory: boolean
  readonly config: MessageInitShape<typeof SandboxConfigSchema>
  readonly memoryMib: number
  /** The only host that has the snapshot. */
  readonly hostId?: string | null
  /** The engine it is to run on; null takes what the snapshot was made for. */
  readonly isolation?: string | null
}

export interface Placed {
  readonly hostId: string
  readonly address: string
  readonly fromPool: boolean
}

const STOP_TIMEOUT_MS = 10_000

/** Ends a sandbox on a host, whether it is there or not. @throws ConnectError when the host cannot say so */
export async function stopOn(host: HostEndpoint, sandboxId: string): Promise<void> {
  try {
    await host.client.stop({ sandboxId }, { timeoutMs: STOP_TIMEOUT_MS })
  } catch (error) {
    if (ConnectError.from(error).code !== Code.NotFound) throw error
  }
}

/** Starts sandboxes on the best host that takes them. */
export class Starter {
  readonly #hosts: Hosts
  readonly #logger: Logger
  readonly #timeoutMs: number

  constructor(hosts: Hosts, logger: Logger, timeoutMs: number) {
    this.#hosts = hosts
    this.#logger = logger
    this.#timeoutMs = timeoutMs
  }

  /**
   * @throws ApiError 500 no host has the engine, 503 no host takes it, 504 it took too long, 500 the host failed; nothing runs then
   */
  async start(order: StartOrder): Promise<Placed> {
    const request = startRequest(order)
    let refusal: ConnectError | undefined
    for (const host of this.#hosts.candidates(order)) {
      this.#hosts.noteStart(host.id)
      try {
        const answer = await host.client.start(request, { timeoutMs: this.#timeoutMs })
        this.#hosts.noteOutcome(host.id, true)
        return { hostId: host.id, address: answer.sandbox?.address ?? '', fromPool: answer.fromPool }
      } catch (cause) {
        const error = ConnectError.from(cause)
        this.#hosts.noteOutcome(host.id, false)
        this.#logger.warn({ err: error, hostId: host.id, sandboxId: order.sandboxId }, 'start failed')
        if (error.code === Code.Unavailable) this.#hosts.noteUnreachable(host.id, error)
        // The first two say that the host did nothing, the third that it is away: another may do better.
        const isRefusal = error.code === Code.ResourceExhausted || error.code === Code.NotFound
        if (!isRefusal) await this.#undo(host, order.sandboxId)
        if (!isRefusal && error.code !== Code.Unavailable) throw startError(error)
        refusal = error
      }
    }
    throw startError(refusal ?? new ConnectError('no host', Code.ResourceExhausted))
  }

  /**
   * Starts a paused sandbox where its snapshot lies, which is then used up.
   * @throws ApiError 409 its memory does not fit the host any more, 503, 504, 500; its snapshot is untouched or the
   * host reports it as started later
   */
  async resume(host: HostEndpoint, order: StartOrder, memory: boolean): Promise<Placed> {
    const request = startRequest(order)
    request.memory = memory
    request.consumeSnapshot = true
    this.#hosts.noteStart(host.id)
    try {
      const answer = await host.client.start(request, { timeoutMs: this.#timeoutMs })
      return { hostId: host.id, address: answer.sandbox?.address ?? '', fromPool: answer.fromPool }
    } catch (cause) {
      const error = ConnectError.from(cause)
      this.#logger.warn({ err: error, hostId: host.id, sandboxId: order.sandboxId }, 'resume failed')
      throw resumeError(order.sandboxId, error)
    }
  }

  /** What cannot be stopped now has no row, so the next synchronisation with the host ends it. */
  async #undo(host: HostEndpoint, sandboxId: string): Promise<void> {
    await stopOn(host, sandboxId).catch((error) =>
      this.#logger.error({ err: error, hostId: host.id, sandboxId }, 'failed start not undone yet'),
    )
  }
}

function startRequest(order: StartOrder): StartRequest {
  return create(StartRequestSchema, {
    sandboxId: order.sandboxId,
    snapshotId: order.snapshotId,
    config: order.config,
    endAt: timestampFromMs(order.endAt),
    onEnd: order.pauseAtEnd ? OnEnd.PAUSE : OnEnd.KILL,
    pauseMemory: order.pauseMemory,
    isolation: order.isolation ?? '',
  })
}

function resumeError(id: string, cause: ConnectError): ApiError {
  switch (cause.code) {
    case Code.ResourceExhausted:
    case Code.Unavailable:
      return new ApiError(
        'busy',
        'The host of the paused sandbox has no room now: it stays paused, try again.',
        {
          cause,
        },
      )
    case Code.FailedPrecondition:
      return new ApiError(
        'conflict',
        `The memory of sandbox ${id} does not fit its host any more: resume it with memory: false, which boots its files.`,
        { cause },
      )
    case Code.AlreadyExists:
    case Code.Aborted:
      return new ApiError('transitioning', `Sandbox ${id} is changing its state: try again.`, { cause })
    case Code.NotFound:
      return new ApiError('internal', `The snapshot of sandbox ${id} is missing on its host.`, { cause })
    case Code.DeadlineExceeded:
      return new ApiError('placementTimeout', 'The sandbox did not resume in time.', { cause })
    default:
      return new ApiError(
        'internal',
        `Sandbox ${id} failed to resume and stays paused: see the server log.`,
        {
          cause,
        },
      )
  }
}

function startError(cause: ConnectError): ApiError {
  switch (cause.code) {
    case Code.ResourceExhausted:
      return new ApiError(
        'noCapacity',
        'No host has room for the sandbox now: nothing was done, try again later.',
        {
          cause,
        },
      )
    case Code.NotFound:
      return new ApiError(
        'noCompatibleNode',
        'No host has the snapshot of this template: build the template again.',
        {
          cause,
        },
      )
    case Code.Unavailable:
      return new ApiError('noCapacity', 'The host of the sandbox does not answer: try again later.', {
        cause,
      })
    case Code.DeadlineExceeded:
      return new ApiError('placementTimeout', 'The sandbox did not start in time and was removed.', { cause })
    case Code.InvalidArgument:
    case Code.FailedPrecondition:
      return new ApiError('createRefused', `The host refuses to start this sandbox: ${cause.rawMessage}`, {
        cause,
      })
    default:
      return new ApiError('createFailed', 'The sandbox failed to start: nothing of it is left, try again.', {
        cause,
      })
  }
}
