import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** In place of a network namespace's path: an empty one that nobody else has. */
export const NEW_NETWORK = 'new'

/** The program's end of `listenPath`. */
export const LISTEN_FD = 9

/** A start takes tens of milliseconds, a dump a second for each half GiB; past these bounds something hangs. */
const START_WITHIN_MS = 60_000
export const RUN_WITHIN_MS = 180_000

/** See the protocol at the top of native/shim.c. */
export interface ShimCommand {
  id?: string
  cgroupPaths?: readonly string[]
  /** Path of a network namespace, or `NEW_NETWORK`. */
  netns?: string
  /** Mount points the program must not see; missing ones are fine. */
  hide?: readonly string[]
  /** Where the program sees a read-only sysfs of its network namespace. */
  sysfs?: string
  binds?: readonly { from: string; to: string }[]
  /** A directory that becomes the program's root, with what is bound in it and nothing else. */
  root?: string
  environment?: Readonly<Record<string, string>>
  /** With this the program leaves a sandbox behind; without, it is only run. */
  sandbox?: {
    /** Where the program leaves the pid of init before it ends; undefined: the program itself is init. */
    pidFile?: string | undefined
    startedFile: string
    exitFile: string
  }
  /** Path of a unix socket that listens before the program runs; the program has it as descriptor `LISTEN_FD`. */
  listenPath?: string
  /** Gets what the program says. What stays behind of it must not hold on to its output. */
  logPath?: string
  program: readonly string[]
}

export interface StartedInit {
  pid: number
  startTime: number
}

/** What the program or the kernel refused; the message is the shim's. */
export class ShimError extends Error {
  override readonly name = 'ShimError'
}

/** One shim process. Takes one command in its life. */
export class Shim {
  readonly #child: ChildProcess
  readonly #answers: string[] = []
  readonly #closed: Promise<void>
  #arrived = Promise.withResolvers<void>()
  #isClosed = false
  #buffer = ''

  /** Starts a shim that waits for its command. @param path of the compiled shim */
  constructor(path: string) {
    // A session of its own: what stops the daemon's session or terminal must not stop sandboxes.
    // Nothing of the daemon's environment, which may hold secrets, goes near a sandbox.
    this.#child = spawn(path, [], {
      stdio: ['pipe', 'pipe', 'ignore'],
      detached: true,
      cwd: '/',
      env: { PATH },
    })
    const { stdout, stdin } = this.#child
    stdout?.on('data', (chunk: Buffer) => this.#read(chunk.toString()))
    // A shim that is gone shows as its output closing; what is written to it then has nobody to tell.
    stdin?.on('error', () => {})
    this.#closed = Promise.race([once(this.#child, 'close'), once(this.#child, 'error')]).then(
      () => this.#close(),
      () => this.#close(),
    )
    this.unref()
  }

  get usable(): boolean {
    return !this.#isClosed
  }

  /** Runs a program that leaves a sandbox behind. Answers when its init runs. @throws ShimError */
  async start(command: ShimCommand): Promise<StartedInit> {
    this.#send(command)
    const answer = await this.#answerWithin(START_WITHIN_MS)
    const match = /^started (\d+) (\d+)$/.exec(answer)
    if (!match) throw new ShimError(answer)
    return { pid: Number(match[1]), startTime: Number(match[2]) }
  }

  /** Runs a program to its end. Answers its exit status. @throws ShimError when it could not be run */
  async run(command: ShimCommand): Promise<number> {
    this.#send(command)
    const answer = await this.#answerWithin(RUN_WITHIN_MS)
    const match = /^done (-?\d+)$/.exec(answer)
    if (!match) throw new ShimError(answer)
    return Number(match[1])
  }

  /** Resolves when the shim has ended: after the sandbox's init has, and its exit file is whole. */
  ended(): Promise<void> {
    return this.#closed
  }

  /** Ends a shim that got no command. */
  discard(): void {
    this.#child.stdin?.end()
  }

  /** Waits for the last file that a shim writes, when it got no command or all that it started was killed. */
  async end(): Promise<void> {
    this.discard()
    this.#ref()
    await this.#closed
  }

  /** A waiting shim keeps no daemon alive. */
  unref(): void {
    this.#child.unref()
    for (const stream of [this.#child.stdin, this.#child.stdout])
      if (stream && 'unref' in stream && typeof stream.unref === 'function') stream.unref()
  }

  #send(command: ShimCommand): void {
    this.#ref()
    this.#child.stdin?.write(commandText(command))
  }

  #ref(): void {
    this.#child.ref()
    // The process may be reaped before its last words are read: its output alone then keeps the daemon alive.
    const { stdout } = this.#child
    if (stdout && 'ref' in stdout && typeof stdout.ref === 'function') stdout.ref()
  }

  /** A program that hangs is ended with the shim and everything in its session; a sandbox has sessions of its own. */
  async #answerWithin(limitMs: number): Promise<string> {
    let isLate = false
    const timer = setTimeout(() => {
      isLate = true
      killSession(this.#child.pid)
    }, limitMs)
    try {
      return await this.#answer()
    } catch (error) {
      throw isLate ? new ShimError(`the program did not end within ${limitMs} ms`) : error
    } finally {
      clearTimeout(timer)
    }
  }

  async #answer(): Promise<string> {
    for (;;) {
      const answer = this.#answers.shift()
      if (answer === 'ready') continue
      if (answer !== undefined) {
        this.unref()
        return answer
      }
      if (this.#isClosed) throw new ShimError('the shim ended without an answer')
      await this.#arrived.promise
    }
  }

  #read(text: string): void {
    const lines = (this.#buffer + text).split('\n')
    this.#buffer = lines.pop() ?? ''
    this.#answers.push(...lines)
    this.#wake()
  }

  #close(): void {
    this.#isClosed = true
    this.#wake()
  }

  #wake(): void {
    this.#arrived.resolve()
    this.#arrived = Promise.withResolvers<void>()
  }
}

function killSession(pid: number | undefined): void {
  try {
    if (pid !== undefined) process.kill(-pid, 'SIGKILL')
  } catch {
    // It ended at this moment.
  }
}

function commandText(command: ShimCommand): string {
  const { sandbox } = command
  const fields: [string, string][] = [
    ...(command.id === undefined ? [] : [['id', command.id] as [string, string]]),
    ...(command.cgroupPaths ?? []).map((path): [string, string] => ['cgroup', `${path}/cgroup.procs`]),
    ...(command.netns === undefined ? [] : [['netns', command.netns] as [string, string]]),
    ...(command.hide ?? []).map((path): [string, string] => ['hide', path]),
    ...(command.sysfs === undefined ? [] : [['sysfs', command.sysfs] as [string, string]]),
    ...(command.binds ?? []).map(({ from, to }): [string, string] => ['bind', `${from}\t${to}`]),
    ...(command.root === undefined ? [] : [['root', command.root] as [string, string]]),
    ...Object.entries(command.environment ?? {}).map(([name, value]): [string, string] => [
      'env',
      `${name}=${value}`,
    ]),
    ...(sandbox
      ? ([
          sandbox.pidFile === undefined ? ['stay', 'yes'] : ['pidfile', sandbox.pidFile],
          ['started', sandbox.startedFile],
          ['exit', sandbox.exitFile],
        ] as [string, string][])
      : []),
    ...(command.listenPath === undefined ? [] : [['listen', command.listenPath] as [string, string]]),
    ...(command.logPath === undefined ? [] : [['log', command.logPath] as [string, string]]),
    ...command.program.map((word): [string, string] => ['arg', word]),
  ]
  const broken = fields.find(([, value]) => value.includes('\n') || value === '')
  if (broken) throw new ShimError(`field ${broken[0]} is empty or has a line break`)
  return `${fields.map(([name, value]) => `${name} ${value}`).join('\n')}\ngo\n`
}
