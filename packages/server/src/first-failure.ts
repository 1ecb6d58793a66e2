/** Of a failure after which closing what was open failed as well, the first: what the operator has to know. */
export const firstFailure = (error: unknown): Error =>
  error instanceof SuppressedError ? firstFailure(error.suppressed) : (error as Error)
