/**
 * Every error a client can see, in one place: code, HTTP status, whether the same call may be repeated,
 * and a sentence that says what to do. Source of shapes and texts: the E2B API.
 */

interface ErrorKind {
  /** HTTP status; equal to `code` in the JSON body. */
  readonly status: number
  /** Value of the `error_code` field, absent for errors that E2B gives none. */
  readonly errorCode?: string
  /** True only when nothing was done, so that repeating the same call is safe and useful. */
  readonly shouldRetry: boolean
}

const kinds = {
  badRequest: { status: 400, shouldRetry: false },
  unauthorized: { status: 401, shouldRetry: false },
  forbidden: { status: 403, shouldRetry: false },
  notFound: { status: 404, shouldRetry: false },
  conflict: { status: 409, shouldRetry: false },
  /** A sandbox was paused while its agent did not answer: only a cold boot is sure to bring it back. */
  guestUnresponsive: {
    status: 409,
    errorCode: 'sandbox_snapshot_guest_agent_unresponsive',
    shouldRetry: false,
  },
  /** Another transition of the same sandbox is under way; the same call may succeed after it. */
  transitioning: { status: 409, shouldRetry: false },
  idempotencyMismatch: { status: 422, errorCode: 'idempotency_request_mismatch', shouldRetry: false },
  idempotencyInProgress: { status: 409, errorCode: 'idempotency_in_progress', shouldRetry: true },
  idempotencyOutcomeUnknown: { status: 409, errorCode: 'idempotency_outcome_unknown', shouldRetry: false },
  tooManySandboxes: { status: 429, shouldRetry: false },
  tooManySnapshots: { status: 429, errorCode: 'snapshot_limit_reached', shouldRetry: false },
  rateLimited: { status: 429, shouldRetry: true },
  internal: { status: 500, errorCode: 'internal_server_error', shouldRetry: false },
  createFailed: { status: 500, errorCode: 'sandbox_create_failed', shouldRetry: true },
  createRefused: { status: 500, errorCode: 'sandbox_create_refused', shouldRetry: false },
  noCapacity: { status: 503, errorCode: 'sandbox_capacity_unavailable', shouldRetry: true },
  noCompatibleNode: { status: 503, errorCode: 'sandbox_no_compatible_node', shouldRetry: false },
  placementTimeout: { status: 504, errorCode: 'sandbox_placement_timeout', shouldRetry: false },
  busy: { status: 503, shouldRetry: true },
} as const satisfies Record<string, ErrorKind>

export type ErrorName = keyof typeof kinds

/** The JSON body of every error answer of the REST API. */
export interface ErrorBody {
  code: number
  message: string
  error_code?: string
}

/** An error that is meant for the caller of the API. Anything else that is thrown becomes `internal`. */
export class ApiError extends Error {
  readonly kind: ErrorName
  /** Whole seconds for the Retry-After header, sent with 429 and 503. */
  readonly retryAfterSeconds: number | undefined

  constructor(
    kind: ErrorName,
    message: string,
    options: { retryAfterSeconds?: number; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.name = 'ApiError'
    this.kind = kind
    this.retryAfterSeconds = options.retryAfterSeconds
  }

  get status(): number {
    return kinds[this.kind].status
  }

  get shouldRetry(): boolean {
    return kinds[this.kind].shouldRetry
  }

  toBody(): ErrorBody {
    const kind: ErrorKind = kinds[this.kind]
    return {
      code: kind.status,
      message: this.message,
      ...(kind.errorCode ? { error_code: kind.errorCode } : {}),
    }
  }
}
