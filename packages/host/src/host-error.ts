export type HostErrorKind =
  | 'noRoom'
  | 'notFound'
  | 'exists'
  | 'wrongState'
  | 'invalid'
  | 'unsupported'
  | 'busy'
  | 'unavailable'
  | 'failed'

/** An error whose message is meant for the caller of the host service. `service.ts` maps kinds to Connect codes. */
export class HostError extends Error {
  readonly kind: HostErrorKind

  constructor(kind: HostErrorKind, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'HostError'
    this.kind = kind
  }
}
