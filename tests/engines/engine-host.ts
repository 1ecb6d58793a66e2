import { describe } from 'vitest'
import { loadConfig } from '../../packages/server/src/config.ts'
import { readPublishedTemplates } from '../../packages/server/src/tenancy.ts'
import { shell, TestHost } from '../system/harness/test-host.ts'
import { type EngineUnderTest, enginesUnderTest } from './engines-under-test.ts'

const BASE = readPublishedTemplates(loadConfig()).find(({ name }) => name === 'base')!.snapshotId
const RESOURCES = { cpuCount: 1, memoryMib: 512, diskMib: 256, pids: 256 }

/** Files run side by side, each worker's with a host of its own. */
export const HOST_INDEX = 4 + Number(process.env.VITEST_POOL_ID ?? 1)

/** Starts sandboxes of the template `base` on one engine, without a control plane. */
export class EngineHost {
  readonly engine: EngineUnderTest
  readonly host: TestHost

  constructor(engine: EngineUnderTest) {
    this.engine = engine
    this.host = new TestHost(HOST_INDEX)
  }

  start(): Promise<void> {
    return this.host.start({ ...this.engine.settings, E2B_ISOLATION: this.engine.name })
  }

  /** @returns its address */
  run(
    sandboxId: string,
    { resources = {}, ...changes }: { resources?: Partial<typeof RESOURCES> } & Record<string, unknown> = {},
  ): Promise<string> {
    const config = {
      allowInternetAccess: true,
      resources: { ...RESOURCES, ...resources },
      templateId: 'base',
    }
    return this.host.run(sandboxId, { snapshotId: BASE, config, ...changes })
  }

  async pause(sandboxId: string, memory = true): Promise<string> {
    const { paused } = await this.host.client.pause({ sandboxId, memory })
    return paused!.snapshotId
  }

  async stop(...sandboxIds: string[]): Promise<void> {
    await Promise.all(sandboxIds.map((sandboxId) => this.host.client.stop({ sandboxId })))
  }

  /** Kills the daemon and starts the next one. */
  async crash(): Promise<void> {
    await this.host.kill()
    await this.start()
  }
}

/** Output of a Python program that root runs in the sandbox. */
export const python = (address: string, program: string): Promise<string> =>
  shell(address, `python3 - <<'PROGRAM'\n${program}\nPROGRAM`)

/** The suite once for each engine; one that is not installed is told, not passed over in silence. */
export function describeEngines(title: string, suite: (engine: EngineUnderTest) => void): void {
  for (const engine of enginesUnderTest.filter(({ suites }) => suites?.includes(title) ?? true)) {
    if (engine.missing === undefined) {
      describe(`${engine.name}: ${title}`, () => suite(engine))
      continue
    }
    process.stderr.write(
      `\n${engine.name} is not installed here, ${title} is not tested: ${engine.missing}\n`,
    )
  }
}
