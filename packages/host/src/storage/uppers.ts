/** The writable part of one sandbox: a directory with a hard size cap, ids stored as the guest sees them. */
export interface Upper {
  readonly id: string
  /** Holds `upper/` and `work/`. */
  readonly path: string
  readonly capMib: number
}
