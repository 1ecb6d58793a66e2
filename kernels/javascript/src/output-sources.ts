/** What the publishing thread is given. */

export const STREAMS = ['stdout', 'stderr'] as const
export type StreamName = (typeof STREAMS)[number]

/** Descriptors of the ends that it reads. */
export interface OutputSources {
  /** Kernel messages. */
  frames: number
  stdout: number
  stderr: number
  /** How many bytes it has published of each stream, modulo 2^32. */
  published: SharedArrayBuffer
}
