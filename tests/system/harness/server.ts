import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { clientEnvironment } from '../../../packages/server/src/commands/env.ts'
import { type Config, loadConfig } from '../../../packages/server/src/config.ts'

const main = join(import.meta.dirname, '../../../packages/server/src/main.ts')

/** A server of the tests' own: another instance name, ports, addresses and ids than the machine's server. */
export interface TestServer {
  readonly config: Config
  /** Its settings, for the operator's commands. */
  readonly environment: Readonly<Record<string, string>>
  /** The environment of a client that talks to it. */
  readonly clientEnv: Record<string, string>
  /** Everything it printed. */
  output(): string
  pid(): number
  /** Starts the process again after `kill` or `stop`; answers when it is ready. */
  start(): Promise<void>
  /** SIGKILL, as a crash; sandboxes stay. */
  kill(): Promise<void>
  /** SIGTERM; answers with the exit status. */
  stop(): Promise<number | null>
  /** Ends it with its sandboxes and removes its state. */
  dispose(): Promise<void>
}

/**
 * Makes a server that is not started yet.
 * @param index 0 to 9; servers that run at once need different ones
 * @param launch makes a command of another that runs it, in namespaces for example
 */
export function createTestServer(
  index: number,
  settings: Record<string, string> = {},
  launch: (command: string[]) => string[] = (command) => command,
): TestServer {
  const stateDir = settings.E2B_STATE_DIR ?? mkdtempSync(join(tmpdir(), `e2b-system-${index}-`))
  const shared = loadConfig()
  const httpsPort = 4443 + index * 10
  const environment: Record<string, string> = {
    E2B_INSTANCE: `tst${index}`,
    E2B_STATE_DIR: stateDir,
    E2B_IMAGES_DIR: shared.imagesDir,
    E2B_RUN_DIR: `/run/e2b-tst${index}`,
    E2B_ADDRESS_RANGE: `10.${120 + index}.0.0/16`,
    E2B_UID_BASE: String(0x60000000 + index * 0x01000000),
    E2B_HTTPS_PORT: String(httpsPort),
    E2B_API_PORT: String(4000 + index * 10),
    E2B_PROXY_PORT: String(4002 + index * 10),
    E2B_DOMAIN: `e2b.localhost:${httpsPort}`,
    E2B_UPPERS_GIB: '16',
    E2B_CONFIG: '/dev/null',
    // Some tests look at processes on this machine, which other engines have none of; `tests/engines` has all engines.
    E2B_ISOLATION: process.env.E2B_ISOLATION ?? 'container',
    ...settings,
  }
  const config = loadConfig({}, environment)
  let child: ChildProcess | undefined
  let printed = ''

  const start = async (extra: Record<string, string> = {}): Promise<void> => {
    const [program, ...args] = launch([process.execPath, main, 'up']) as [string, ...string[]]
    const started = spawn(program, args, {
      env: { ...process.env, ...environment, ...extra },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    child = started
    started.stderr!.on('data', (chunk: Buffer) => {
      printed += chunk.toString()
    })
    await new Promise<void>((resolve, reject) => {
      createInterface({ input: started.stdout! }).on('line', (line) => {
        printed += `${line}\n`
        if (line.startsWith('Ready')) resolve()
      })
      started.once('exit', (code) =>
        reject(new Error(`the server ended with ${code}:\n${printed.slice(-4000)}`)),
      )
    })
  }
  const end = async (signal: NodeJS.Signals): Promise<number | null> => {
    if (!child || child.exitCode !== null || child.signalCode !== null) return null
    const exited = once(child, 'exit') as Promise<[number | null]>
    child.kill(signal)
    const [code] = await exited
    return code
  }
  return {
    config,
    environment,
    get clientEnv() {
      return clientEnvironment(config, false)
    },
    output: () => printed,
    pid: () => child!.pid!,
    start: () => start(),
    kill: async () => {
      await end('SIGKILL')
    },
    stop: () => end('SIGTERM'),
    dispose: async () => {
      await end('SIGTERM')
      try {
        await start({ E2B_ON_SHUTDOWN: 'kill' })
        await end('SIGTERM')
      } finally {
        await run([process.execPath, main, 'teardown'], { ...process.env, ...environment })
        rmSync(stateDir, { recursive: true, force: true })
      }
    },
  }
}

async function run(argv: string[], env: NodeJS.ProcessEnv): Promise<void> {
  const child = spawn(argv[0]!, argv.slice(1), { env, stdio: ['ignore', 'ignore', 'inherit'] })
  const [code] = (await once(child, 'exit')) as [number | null]
  if (code !== 0) throw new Error(`${argv.join(' ')} ended with status ${code}`)
}
