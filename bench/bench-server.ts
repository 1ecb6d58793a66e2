import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Journal, type JournalEntry, readBootId } from '@sandbox/host/journal'
import { createTestServer, type TestServer } from '../tests/system/harness/server.ts'
import { SandboxClient } from './sandbox-client.ts'

/** A server of the benchmark's own, on the images of this machine, and what it wrote about itself. */
export interface BenchServer {
  readonly server: TestServer
  readonly client: SandboxClient
  /** What runs on its host now, pooled sandboxes included. */
  entries(): readonly JournalEntry[]
  /** Waits until `count` sandboxes lie in the pool. @throws after 60 s */
  poolFilled(count: number): Promise<void>
  close(): Promise<void>
}

const LOOK_EVERY_MS = 20
const FILLED_WITHIN_MS = 60_000

/** @param index see `createTestServer`; @param poolSize 0 switches the pool off */
export async function openBenchServer(
  index: number,
  poolSize: number,
  settings: Record<string, string> = {},
): Promise<BenchServer> {
  const server = createTestServer(index, {
    E2B_POOL_MIN: String(poolSize),
    E2B_POOL_MAX: String(poolSize),
    ...settings,
  })
  await server.start()
  const { apiPort, proxyPort, stateDir } = server.config
  const client = new SandboxClient({ apiPort, proxyPort }, server.clientEnv.E2B_API_KEY!)
  const journal = new Journal(join(stateDir, 'journal'), readBootId())
  const entries = (): readonly JournalEntry[] => journal.read().entries
  const pooled = (): number =>
    entries().filter(({ occupant, isReady }) => occupant === 'pooled' && isReady).length
  return {
    server,
    client,
    entries,
    poolFilled: async (count) => {
      const endsAtMs = performance.now() + FILLED_WITHIN_MS
      while (pooled() < count) {
        if (performance.now() > endsAtMs) throw new Error(`the pool holds ${pooled()} of ${count} sandboxes`)
        await delay(LOOK_EVERY_MS)
      }
    },
    close: async () => {
      client.close()
      await server.dispose()
    },
  }
}
