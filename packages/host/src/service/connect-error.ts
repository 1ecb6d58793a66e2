import { Code, ConnectError } from '@connectrpc/connect'
import { HostError, type HostErrorKind } from '../host-error.ts'

const CODES: Readonly<Record<HostErrorKind, Code>> = {
  noRoom: Code.ResourceExhausted,
  notFound: Code.NotFound,
  exists: Code.AlreadyExists,
  wrongState: Code.FailedPrecondition,
  invalid: Code.InvalidArgument,
  unsupported: Code.Unimplemented,
  busy: Code.Aborted,
  unavailable: Code.Unavailable,
  failed: Code.Internal,
}

/** What the caller of the service sees of an error: ours as they are, others as internal. */
export function connectError(error: unknown): ConnectError {
  if (error instanceof HostError)
    return new ConnectError(error.message, CODES[error.kind], undefined, undefined, error)
  return ConnectError.from(error, Code.Internal)
}
