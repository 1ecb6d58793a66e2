import { Sandbox } from '@e2b/code-interpreter'
import { type CrashingServer, within } from './crashing-server.ts'
import type { Random } from './random.ts'

/** What a sandbox must still hold, however often the server died. */
export interface Held {
  readonly id: string
  readonly mark: string
  readonly isPaused: boolean
  /** Pid of a process that only kept memory brings back; undefined when none is promised. */
  readonly pid: number | undefined
}

/** Counted over all workers. */
export class Tally {
  done = 0
  /** Cycles that a kill cut short. */
  interrupted = 0
  /** Sandboxes and snapshots whose making a kill interrupted: their ids are not known here. */
  unknownSandboxes = 0
  unknownSnapshots = 0
  readonly failures: string[] = []
  /** Sandboxes that live on over many cycles and kills. */
  readonly held: Held[] = []
}

const STEP_WITHIN_MS = 60_000
const SANDBOX_TIMEOUT_MS = 3_600_000
const MARK_PATH = '/home/user/mark'
const CODE_SHARE = 0.25
const FORK_SHARE = 0.5
const SNAPSHOT_SHARE = 0.5
const MEMORY_SHARE = 0.8
const HOLD_SHARE = 0.1
const MAX_HELD = 8

/** The server died during a step, which may have happened or not. */
class Interrupted extends Error {}

function assertEqual(actual: unknown, expected: unknown, what: string): void {
  if (actual !== expected)
    throw new Error(`${what}: ${JSON.stringify(actual)} instead of ${JSON.stringify(expected)}`)
}

/** The sandbox works and holds what it must; a paused one is resumed by it. */
export async function assertHeld({ id, mark, pid }: Omit<Held, 'isPaused'>): Promise<Sandbox> {
  const sandbox = await Sandbox.connect(id, { timeoutMs: SANDBOX_TIMEOUT_MS })
  assertEqual((await sandbox.commands.run(`cat ${MARK_PATH}`)).stdout, mark, `mark of ${id}`)
  if (pid === undefined) return sandbox
  const { stdout } = await sandbox.commands.run(`ps -o comm= -p ${pid} || true`)
  assertEqual(stdout.trim(), 'sleep', `process ${pid} of ${id}`)
  return sandbox
}

/** One worker: cycles of everything that happens in the life of a sandbox. */
export class Worker {
  readonly #server: CrashingServer
  readonly #random: Random
  readonly #tally: Tally

  constructor(server: CrashingServer, random: Random, tally: Tally) {
    this.#server = server
    this.#random = random
    this.#tally = tally
  }

  async cycle(number: number): Promise<void> {
    try {
      await this.#live(number)
    } catch (error) {
      if (error instanceof Interrupted) this.#tally.interrupted += 1
      else this.#fail(number, error)
    }
    this.#tally.done += 1
  }

  #fail(number: number, error: unknown): void {
    const text = error instanceof Error ? `${error.name}: ${error.message}` : String(error)
    const at = new Date().toISOString()
    this.#tally.failures.push(`cycle ${number}, ${at}: ${text.slice(0, 400)}`)
  }

  /** Runs a step while the server is up. Throws Interrupted when it failed and the server was killed meanwhile. */
  async #step<T>(name: string, work: () => Promise<T>): Promise<T> {
    await this.#server.whenUp()
    const { kills } = this.#server
    try {
      return await within(STEP_WITHIN_MS, name, work())
    } catch (error) {
      if (this.#server.kills !== kills) throw new Interrupted(name)
      throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  /** A step that a kill may interrupt is done again until it succeeds. */
  async #insist<T>(name: string, work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await this.#step(name, work)
      } catch (error) {
        if (!(error instanceof Interrupted)) throw error
      }
    }
  }

  async #make<T>(name: string, unknown: number, work: () => Promise<T>): Promise<T> {
    try {
      return await this.#step(name, work)
    } catch (error) {
      if (error instanceof Interrupted) this.#tally.unknownSandboxes += unknown
      throw error
    }
  }

  async #live(number: number): Promise<void> {
    const withCode = this.#random.chance(CODE_SHARE)
    const template = withCode ? 'code-interpreter-v1' : 'base'
    const sandbox = await this.#make('create', 1, () =>
      Sandbox.create(template, { timeoutMs: SANDBOX_TIMEOUT_MS }),
    )
    const id = sandbox.sandboxId
    const mark = `cycle ${number}`
    let isMarked = false
    let isHeld = false
    try {
      await this.#step('mark', () => sandbox.commands.run(`printf '${mark}' > ${MARK_PATH} && sync`))
      isMarked = true
      await this.#use(sandbox, mark, withCode)
      isHeld = await this.#pauseForkAndSnapshot(id, mark, withCode)
    } catch (error) {
      // Known to a client, so it must be there, whatever was interrupted.
      if (error instanceof Interrupted && isMarked)
        await this.#insist('connect after a kill', () => assertHeld({ id, mark, pid: undefined }))
      throw error
    } finally {
      if (!isHeld) await this.#insist('kill', () => Sandbox.kill(id))
    }
    await this.#letGo()
  }

  async #use(sandbox: Sandbox, mark: string, withCode: boolean): Promise<void> {
    await this.#step('file', async () => {
      await sandbox.files.write('/home/user/file', mark)
      assertEqual(await sandbox.files.read('/home/user/file'), mark, 'file')
    })
    if (withCode) await this.#step('code', () => sandbox.runCode(`mark = '${mark}'`))
  }

  /** Answers whether the sandbox is held on to, running or paused. */
  async #pauseForkAndSnapshot(id: string, mark: string, withCode: boolean): Promise<boolean> {
    const pid = await this.#step('background command', async () => {
      const sandbox = await Sandbox.connect(id)
      const command = await sandbox.commands.run('sleep 100000', { background: true, timeoutMs: 0 })
      await command.disconnect()
      return command.pid
    })
    const keepMemory = this.#random.chance(MEMORY_SHARE)
    const keptPid = keepMemory ? pid : undefined
    await this.#step('pause', () => Sandbox.pause(id, { keepMemory }))
    await this.#step('resume', async () => {
      const sandbox = await assertHeld({ id, mark, pid: keptPid })
      if (!withCode || !keepMemory) return
      assertEqual((await sandbox.runCode('mark')).text, mark, 'variable')
    })
    if (this.#random.chance(FORK_SHARE)) await this.#fork(id, mark, keptPid)
    if (this.#random.chance(SNAPSHOT_SHARE)) await this.#snapshot(id, mark, keptPid)
    if (!this.#random.chance(HOLD_SHARE)) return false
    const isPaused = this.#random.chance(0.5)
    if (isPaused) await this.#step('pause to stay', () => Sandbox.pause(id))
    this.#tally.held.push({ id, mark, isPaused, pid: keptPid })
    return true
  }

  async #fork(id: string, mark: string, pid: number | undefined): Promise<void> {
    const count = this.#random.chance(0.5) ? 1 : 2
    const forks = await this.#make('fork', count, () =>
      Sandbox.fork(id, { count, timeoutMs: SANDBOX_TIMEOUT_MS }),
    )
    for (const fork of forks) {
      if (fork instanceof Error) throw fork
      await this.#checkAndKill('fork', { id: fork.sandboxId, mark, pid })
    }
  }

  async #snapshot(id: string, mark: string, pid: number | undefined): Promise<void> {
    const { snapshotId } = await this.#step('snapshot', () => Sandbox.createSnapshot(id)).catch((error) => {
      if (error instanceof Interrupted) this.#tally.unknownSnapshots += 1
      throw error
    })
    try {
      const copy = await this.#make('create from a snapshot', 1, () =>
        Sandbox.create(snapshotId, { timeoutMs: SANDBOX_TIMEOUT_MS }),
      )
      await this.#checkAndKill('copy', { id: copy.sandboxId, mark, pid })
      await this.#insist('delete the snapshot', () => Sandbox.deleteSnapshot(snapshotId))
    } catch (error) {
      this.#tally.unknownSnapshots += 1
      throw error
    }
  }

  async #checkAndKill(what: string, held: Omit<Held, 'isPaused'>): Promise<void> {
    await this.#insist(`use of the ${what}`, () => assertHeld(held))
    await this.#insist(`kill of the ${what}`, () => Sandbox.kill(held.id))
  }

  /** Of those held on to, the oldest end when there are many. */
  async #letGo(): Promise<void> {
    const { held } = this.#tally
    while (held.length > MAX_HELD) {
      const oldest = held.shift()!
      try {
        await this.#insist('use of a held one', () => assertHeld(oldest))
      } finally {
        await this.#insist('kill of a held one', () => Sandbox.kill(oldest.id))
      }
    }
  }
}
