import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { newSandboxId } from '@sandbox/contract/ids'
import { pino } from 'pino'
import { runCommand } from '../../../packages/host/src/agent/agent-process.ts'
import { type Config, loadConfig } from '../../../packages/server/src/config.ts'
import { type HostRole, openHostRole } from '../../../packages/server/src/host-role.ts'
import { readPublishedTemplates } from '../../../packages/server/src/tenancy.ts'
import { report } from './report.ts'

/** The real host role of this machine, and what the cases do with it. */

const LIVES_MS = 3_600_000
/** Of starts whose emulated processor was shut down: that hits some boots, more of them on a slow machine. */
const MOST_REPEATS = 3
/** What Firecracker says of a guest's processor that met a triple fault, of today and before 1.14. */
const SHUT_DOWN = ['Unexpected exit reason on vcpu run: Shutdown', 'Received KVM_EXIT_SHUTDOWN signal']
/** Of the small internet that the network's cases make. */
export const RESOLVER = '8.8.8.8'

export interface Answer {
  exitCode: number
  output: string
}

/** A sandbox that runs. */
export interface Running {
  sandboxId: string
  address: string
}

function machineConfig(engine: string, monitor: string, changes: Record<string, string>): Config {
  return loadConfig(
    {},
    {
      E2B_STATE_DIR: '/state/e2b',
      E2B_IMAGES_DIR: '/state/images',
      E2B_RUN_DIR: '/run/e2b',
      E2B_ISOLATION: engine,
      E2B_MICROVM_MONITOR: monitor,
      E2B_FIRECRACKER: '/state/images/firecracker/firecracker',
      E2B_JAILER: '/state/images/firecracker/jailer',
      E2B_TIME_SCALE: '30',
      E2B_UPPERS_GIB: '4',
      E2B_DISK_MIB: '512',
      E2B_POOL_MAX: '0',
      E2B_SLOTS_READY: '2',
      E2B_MAX_SANDBOXES: '8',
      E2B_DNS_UPSTREAMS: RESOLVER,
      ...changes,
    },
  )
}

export class HostUnderTest {
  readonly config: Config
  readonly engine: string
  readonly monitor: string
  readonly #logPath: string
  /** Sandboxes whose start was repeated. */
  readonly #repeated = new Set<string>()
  #role: HostRole | undefined

  constructor(engine: string, monitor: string, logPath: string) {
    this.engine = engine
    this.monitor = monitor
    this.config = machineConfig(engine, monitor, {})
    this.#logPath = logPath
  }

  get client(): HostRole['client'] {
    if (!this.#role) throw new Error('the host is not open')
    return this.#role.client
  }

  /** @param changes of the settings */
  async open(changes: Record<string, string> = {}): Promise<void> {
    const log = pino({ level: 'info', base: null }, pino.destination({ dest: this.#logPath, sync: true }))
    this.#role = await openHostRole(machineConfig(this.engine, this.monitor, changes), log)
  }

  async close(keepSandboxes: boolean): Promise<void> {
    await this.#role?.host.close({ keepSandboxes })
    this.#role = undefined
  }

  /** Of the host role, whatever settings it was opened with. */
  logLines(): string[] {
    return readFileSync(this.#logPath, 'utf8').split('\n')
  }

  /** Sandboxes that ended because their emulated processor was shut down, but for those whose start was repeated. */
  shutDown(): string[] {
    const lines = this.logLines().filter((line) => SHUT_DOWN.some((words) => line.includes(words)))
    const sandboxIds = lines.map((line) => String((JSON.parse(line) as { sandboxId?: string }).sandboxId))
    return [...new Set(sandboxIds)].filter((sandboxId) => !this.#repeated.has(sandboxId))
  }

  get baseSnapshotId(): string {
    return readPublishedTemplates(this.config)[0]!.snapshotId
  }

  /** A sandbox of the base template, or of a snapshot. */
  async start(
    snapshotId = this.baseSnapshotId,
    more: {
      sandboxId?: string
      memory?: boolean
      consumeSnapshot?: boolean
      allowInternetAccess?: boolean
      networkJson?: string
    } = {},
  ): Promise<Running> {
    const sandboxId = more.sandboxId ?? newSandboxId()
    const start = (): ReturnType<HostRole['client']['start']> => this.client.start(request)
    const request = {
      sandboxId,
      snapshotId,
      config: {
        envVars: {},
        metadata: {},
        allowInternetAccess: more.allowInternetAccess ?? true,
        networkJson: more.networkJson ?? '',
        templateId: 'base',
      },
      endAt: timestampFromMs(Date.now() + LIVES_MS),
      skipPool: true,
      ...(more.memory === undefined ? {} : { memory: more.memory }),
      consumeSnapshot: more.consumeSnapshot ?? false,
    }
    for (let repeats = 0; ; repeats++) {
      try {
        const { sandbox } = await start()
        return { sandboxId, address: sandbox!.address }
      } catch (error) {
        if (repeats === MOST_REPEATS || !this.#emulationFailed(sandboxId)) throw error
        this.#repeated.add(sandboxId)
        report('log', {
          text: `The emulated processor of ${sandboxId} was shut down as it booted. Once more`,
        })
      }
    }
  }

  /** Now and then a processor that is emulated twice meets a triple fault while a guest's kernel boots. */
  #emulationFailed(sandboxId: string): boolean {
    const lines = this.logLines().filter((line) => line.includes(sandboxId))
    return SHUT_DOWN.some((words) => lines.at(-1)?.includes(words))
  }

  /** Runs a command through the agent, as root. */
  async run(address: string, command: string, signal?: AbortSignal): Promise<Answer> {
    const lines: string[] = []
    const { exitCode } = await runCommand(
      address,
      { cmd: '/bin/bash', args: ['-c', command], user: 'root', cwd: '/', envs: {} },
      (_stream, line) => lines.push(line),
      signal,
    )
    return { exitCode, output: lines.join('\n') }
  }

  /** What a command prints. @throws AssertionError with that when it fails */
  async output(address: string, command: string): Promise<string> {
    const { exitCode, output } = await this.run(address, command)
    assert.equal(exitCode, 0, output)
    return output
  }

  /** What a Python program prints that root runs, also when it fails. */
  async python(address: string, program: string, signal?: AbortSignal): Promise<string> {
    return (await this.run(address, `python3 - <<'PROGRAM'\n${program}\nPROGRAM`, signal)).output
  }

  /** Pauses with memory and goes on. */
  async pauseAndResume({ sandboxId }: Running): Promise<Running> {
    const { paused } = await this.client.pause({ sandboxId })
    assert.ok(paused?.hasMemory)
    return this.start(paused.snapshotId, { sandboxId, consumeSnapshot: true })
  }

  async stop(...sandboxes: readonly Running[]): Promise<void> {
    for (const { sandboxId } of sandboxes) await this.client.stop({ sandboxId })
  }
}
