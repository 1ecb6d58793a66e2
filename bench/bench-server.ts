import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Journal, type JournalEntry, readBootId } from '@sandbox/host/cells/journal'
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

/** Names, addresses and ports that neither the machine's server nor the tests use. */
function ownNames(index: number): Record<string, string> {
  const httpsPort = 5443 + index * 10
  return {
    E2B_INSTANCE: `bnch${index}`,
    E2B_RUN_DIR: `/run/e2b-bnch${index}`,
    E2B_ADDRESS_RANGE: `10.${150 + index}.0.0/16`,
    E2B_UID_BASE: String(0x6a000000 + index * 0x01000000),
    E2B_HTTPS_PORT: String(httpsPort),
    E2B_API_PORT: String(5000 + index * 10),
    E2B_PROXY_PORT: String(5002 + index * 10),
    E2B_DOMAIN: `e2b.localhost:${httpsPort}`,
  }
}

/**
 * @param index 0 or 1; servers that run at once need different ones
 * @param poolSize 0 switches the pool off
 */
export async function openBenchServer(
  index: number,
  poolSize: number,
  settings: Record<string, string> = {},
): Promise<BenchServer> {
  const server = createTestServer(index, {
    ...ownNames(index),
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
