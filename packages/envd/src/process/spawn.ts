import { constants } from 'node:os'
import koffi from 'koffi'

/**
 * Starts programs by `posix_spawn`. Node's own way copies the page tables of the agent for each program and leaves
 * the agent with a page fault for whatever it touches next: more than a millisecond that this one does not take.
 */

const FILE_ACTIONS_BYTES = 256
const WNOHANG = 1

const libc = koffi.load(null)
const c = {
  posix_spawn: libc.func(
    'int posix_spawn(_Out_ int *pid, const char *path, void *actions, void *attributes, const char **argv, const char **envp)',
  ),
  actionsInit: libc.func('int posix_spawn_file_actions_init(void *actions)'),
  actionsDup2: libc.func('int posix_spawn_file_actions_adddup2(void *actions, int from, int to)'),
  actionsDestroy: libc.func('int posix_spawn_file_actions_destroy(void *actions)'),
  waitpid: libc.func('int waitpid(int pid, _Out_ int *status, int options)'),
}

/** A program that was started, until its end is known. */
export interface Child {
  readonly pid: number
  /** Resolves with the status of `wait(2)` once it has ended. */
  readonly exited: Promise<number>
  /** Signals the process itself. Nothing happens once it has ended. */
  kill(signal: 'SIGKILL' | 'SIGTERM'): void
}

/** What `spawn` takes. */
export interface SpawnOptions {
  /** Absolute path of the program. */
  readonly file: string
  /** Without the program's own name. */
  readonly args: readonly string[]
  /** The whole environment. */
  readonly env: Readonly<Record<string, string>>
  /** Descriptors of this process that become 0, 1, 2, … of the child. They stay open here. */
  readonly descriptors: readonly number[]
}

/** Ends to be told of, by pid. A pid stays in here until it is waited for, so it cannot name another process. */
const unended = new Map<number, (status: number) => void>()
let isListening = false

/** Starts a program. @throws Error with the errno name as `code` */
export function spawn({ file, args, env, descriptors }: SpawnOptions): Child {
  if (!isListening) process.on('SIGCHLD', reap)
  isListening = true
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const pidOut: [number] = [0]
  const actions = Buffer.alloc(FILE_ACTIONS_BYTES)
  check(c.actionsInit(actions))
  try {
    for (const [to, from] of descriptors.entries()) check(c.actionsDup2(actions, from, to))
    check(c.posix_spawn(pidOut, file, actions, null, [file, ...args, null], [...variables, null]))
  } finally {
    c.actionsDestroy(actions)
  }
  const [pid] = pidOut
  const exited = new Promise<number>((resolve) => unended.set(pid, resolve))
  return {
    pid,
    exited,
    kill: (signal) => {
      if (unended.has(pid)) process.kill(pid, signal)
    },
  }
}

function check(errno: number): void {
  if (errno === 0) return
  const code = Object.entries(constants.errno).find(([, value]) => value === errno)?.[0] ?? `E${errno}`
  throw Object.assign(new Error(`posix_spawn: ${code}`), { code })
}

function reap(): void {
  for (const [pid, resolve] of unended) {
    const statusOut: [number] = [0]
    const ended = c.waitpid(pid, statusOut, WNOHANG)
    if (ended === 0) continue
    unended.delete(pid)
    resolve(statusOut[0])
  }
}
