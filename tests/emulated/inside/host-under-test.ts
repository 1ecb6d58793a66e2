import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { newSandboxId } from '@sandbox/contract/ids'
import { pino } from 'pino'
import { runCommand } from '../../../packages/host/src/agent-process.ts'
import { type Config, loadConfig } from '../../../packages/server/src/config.ts'
import { type HostRole, openHostRole } from '../../../packages/server/src/host-role.ts'
import { readPublishedTemplates } from '../../../packages/server/src/tenancy.ts'

/** The real host role of this machine, and what the cases do with it. */

const LIVES_MS = 3_600_000

export interface Answer {
  exitCode: number
  output: string
}

function machineConfig(engine: string, monitor: string): Config {
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
    },
  )
}

export class HostUnderTest {
  readonly config: Config
  readonly #logPath: string
  #role: HostRole | undefined

  constructor(engine: string, monitor: string, logPath: string) {
    this.config = machineConfig(engine, monitor)
    this.#logPath = logPath
  }

  get client(): HostRole['client'] {
    if (!this.#role) throw new Error('the host is not open')
    return this.#role.client
  }

  async open(): Promise<void> {
    const log = pino({ level: 'info', base: null }, pino.destination({ dest: this.#logPath, sync: true }))
    this.#role = await openHostRole(this.config, log)
  }

  async close(keepSandboxes: boolean): Promise<void> {
    await this.#role?.host.close({ keepSandboxes })
    this.#role = undefined
  }

  get baseSnapshotId(): string {
    return readPublishedTemplates(this.config)[0]!.snapshotId
  }

  /** A sandbox of the base template, or of a snapshot. */
  async start(
    snapshotId = this.baseSnapshotId,
    more: { sandboxId?: string; memory?: boolean; consumeSnapshot?: boolean } = {},
  ): Promise<{ sandboxId: string; address: string }> {
    const sandboxId = more.sandboxId ?? newSandboxId()
    const { sandbox } = await this.client.start({
      sandboxId,
      snapshotId,
      config: { envVars: {}, metadata: {}, allowInternetAccess: true, templateId: 'base' },
      endAt: timestampFromMs(Date.now() + LIVES_MS),
      skipPool: true,
      ...(more.memory === undefined ? {} : { memory: more.memory }),
      consumeSnapshot: more.consumeSnapshot ?? false,
    })
    return { sandboxId, address: sandbox!.address }
  }

  /** Runs a command through the agent, as root. */
  async run(address: string, command: string): Promise<Answer> {
    const lines: string[] = []
    const { exitCode } = await runCommand(
      address,
      { cmd: '/bin/bash', args: ['-c', command], user: 'root', cwd: '/', envs: {} },
      (_stream, line) => lines.push(line),
    )
    return { exitCode, output: lines.join('\n') }
  }
}
