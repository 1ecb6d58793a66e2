import type { TestProject } from 'vitest/node'
import { createTestServer } from './server.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** Undefined where files have a server of their own. */
    clientEnv: Record<string, string> | undefined
    serverPid: number
    serverConfig: { instance: string; stateDir: string; runDir: string; proxyPort: number; apiPort: number }
  }
}

/** One server for all whole-system tests; restart tests make their own. */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = createTestServer(0)
  await server.start()
  project.provide('clientEnv', server.clientEnv)
  project.provide('serverPid', server.pid())
  const { instance, stateDir, runDir, proxyPort, apiPort } = server.config
  project.provide('serverConfig', { instance, stateDir, runDir, proxyPort, apiPort })
  return () => server.dispose()
}
