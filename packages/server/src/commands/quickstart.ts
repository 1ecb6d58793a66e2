import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { type Config, configEnvironment } from '../config.ts'
import { clientsVenv } from '../setup/python-clients.ts'
import { setup } from '../setup/setup.ts'
import { ensureOperator, openConfiguredStore, registerPublishedTemplates } from '../tenancy.ts'
import { clientEnvironment } from './env.ts'

const root = join(import.meta.dirname, '../../../..')
const chart = join(root, 'chart.png')

/** True when a server of this configuration answers. */
async function serverIsUp(config: Config): Promise<boolean> {
  try {
    const response = await fetch(`http://127.0.0.1:${config.apiPort}/health`, {
      signal: AbortSignal.timeout(2_000),
    })
    return response.ok
  } catch {
    return false
  }
}

/** A server that runs already knows the templates of its start; newer ones reach it through the store. */
async function publishToRunningServer(config: Config): Promise<void> {
  const store = await openConfiguredStore(config)
  try {
    await registerPublishedTemplates(store, config, await ensureOperator(store, config))
  } finally {
    await store.close()
  }
}

/** Starts a server for as long as the example needs it; the answer ends it. */
async function startServer(config: Config): Promise<() => Promise<void>> {
  const logPath = join(config.stateDir, 'logs', 'quickstart-server.log')
  const log = createWriteStream(logPath)
  const child = spawn(
    process.execPath,
    [join(import.meta.dirname, '../main.ts'), 'up', '--on-shutdown', 'kill'],
    {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...configEnvironment(config) },
    },
  )
  child.stderr.pipe(log)
  const endWithUs = (): void => void child.kill('SIGTERM')
  process.once('exit', endWithUs)
  for (const signal of ['SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(130))
  await new Promise<void>((resolve, reject) => {
    createInterface({ input: child.stdout }).on('line', (line) => {
      log.write(`${line}\n`)
      if (line.startsWith('Ready')) resolve()
    })
    child.once('exit', () => reject(new Error(`The server did not start; its log is ${logPath}.`)))
  })
  return async () => {
    process.removeListener('exit', endWithUs)
    child.kill('SIGTERM')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  }
}

async function runExample(config: Config): Promise<number> {
  const python = join(clientsVenv(config), 'bin', 'python')
  const example = spawn(python, [join(root, 'examples/quickstart.py'), chart], {
    stdio: 'inherit',
    env: { ...process.env, ...clientEnvironment(config, false) },
  })
  const [code] = (await once(example, 'exit')) as [number | null]
  return code ?? 1
}

const HOW_TO_GO_ON = `
Next:
  npm start                      the server: API, sandbox proxy and host in one process
  eval "$(npm run -s env)"       E2B_API_KEY, E2B_DOMAIN and the CA for every official client
  npm run doctor                 what this machine offers, and what it could offer
`

/**
 * The main job: sets the machine up, runs the official Python client against a server, says how to go on.
 * @returns the exit status of the example
 * @throws as the set-up does
 */
export async function quickstart(config: Config): Promise<number> {
  const began = Date.now()
  await setup(config)
  rmSync(chart, { force: true })
  const isUp = await serverIsUp(config)
  if (isUp) await publishToRunningServer(config)
  const stop = isUp ? undefined : await startServer(config)
  process.stdout.write('\nexamples/quickstart.py with the official Python client:\n\n')
  try {
    const status = await runExample(config)
    if (status !== 0) return status
  } finally {
    await stop?.()
  }
  if (!existsSync(chart)) throw new Error(`examples/quickstart.py has left no ${chart}`)
  process.stdout.write(`\nEverything took ${((Date.now() - began) / 1000).toFixed(0)} s.\n${HOW_TO_GO_ON}`)
  return 0
}
