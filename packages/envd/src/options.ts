/** What the agent is told when it starts. Everything that may change later arrives by `POST /init`. */
export interface AgentOptions {
  /** TCP port, 0 for any free one. */
  readonly port: number
  /** Address to listen on. */
  readonly host: string
  /** Directory that holds the native programs `launch` and `watch`. */
  readonly nativeDir: string
  /** Prefix of the system files the agent reads and writes (`etc`, `run`); `/` in a sandbox. */
  readonly rootDir: string
  /** PATH of the processes it starts. */
  readonly path: string
  /** User of requests that name none, until `/init` sets another. */
  readonly defaultUser: string
  /** Address of the sandbox's own interface to which loopback listeners are forwarded; absent = no forwarding. */
  readonly forwardAddress?: string
  /** TCP port of the host's listener for what sandboxes report. Default 80. */
  readonly eventsPort?: number
  /** Called with one JSON line for each transition worth keeping. */
  readonly log?: (line: string) => void
}

export const ENVD_VERSION = '0.6.13'
