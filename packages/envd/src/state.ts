import { createHash, timingSafeEqual } from 'node:crypto'
import { MemoryFile } from './system/memory-file.ts'
import { UserDatabase } from './system/users.ts'

/** What `/init` set: the part of the agent that differs between two sandboxes of one template. */
export class AgentState {
  readonly users: UserDatabase
  readonly memoryFile: MemoryFile
  defaultUser: string
  defaultWorkdir: string | undefined
  /** Processes and threads that one user may have: the rest of the sandbox's are the agent's. */
  maxProcesses: number | undefined
  #systemEnv: Readonly<Record<string, string>> = {}
  #userEnv: Readonly<Record<string, string>> = {}
  #token: string | undefined
  #lastInitTime = 0n

  constructor(options: { rootDir: string; defaultUser: string }) {
    this.users = new UserDatabase(options.rootDir)
    this.memoryFile = new MemoryFile(options.rootDir)
    this.defaultUser = options.defaultUser
  }

  /** Environment of every process and of `GET /envs`; what the user set wins. */
  get env(): Record<string, string> {
    return { ...this.#systemEnv, ...this.#userEnv }
  }

  /** Replaces the variables that describe the sandbox itself. */
  setSystemEnv(env: Readonly<Record<string, string>>): void {
    this.#systemEnv = { ...this.#systemEnv, ...env }
  }

  /** Replaces the variables that came with the last create or resume. */
  setUserEnv(env: Readonly<Record<string, string>>): void {
    this.#userEnv = { ...env }
  }

  get hasToken(): boolean {
    return this.#token !== undefined
  }

  /** The token for computing signatures; never logged. */
  get token(): string | undefined {
    return this.#token
  }

  setToken(token: string | undefined): void {
    this.#token = token || undefined
  }

  /** Compares in constant time; false when no token is set. */
  tokenEquals(candidate: string | undefined): boolean {
    return this.#token !== undefined && candidate !== undefined && equalSecrets(this.#token, candidate)
  }

  /** True when `nanoseconds` is newer than every accepted one so far, which it then becomes. */
  acceptInitTime(nanoseconds: bigint): boolean {
    if (nanoseconds <= this.#lastInitTime) return false
    this.#lastInitTime = nanoseconds
    return true
  }
}

/** Equality of two secrets in a time that does not depend on where they differ. */
export function equalSecrets(left: string, right: string): boolean {
  const digest = (text: string): Buffer => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(left), digest(right))
}
