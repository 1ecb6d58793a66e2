import { existsSync, readFileSync } from 'node:fs'
import { type Config, ConfigError } from '../config.ts'
import { keyPath } from '../operator-files.ts'

const ANSWERS_WITHIN_MS = 10_000

interface Shown {
  templateID: string
  names: string[]
  /** Missing where it is a snapshot of a sandbox. */
  isolation?: string | undefined
}

/**
 * Prints a template of the operator's team, after changing the engine of its sandboxes when one is given. Asks the
 * running server, whose hosts know what they can run.
 * @throws Error that says why not
 */
export async function showTemplate(
  config: Config,
  name: string,
  { engine, json }: { engine?: string; json: boolean },
): Promise<void> {
  if (engine !== undefined) await call(config, 'PATCH', name, { isolation: engine })
  const { templateID, names, isolation } = (await call(config, 'GET', name)) as Shown
  const shown = { templateID, names, isolation }
  process.stdout.write(json ? `${JSON.stringify(shown, null, 2)}\n` : `${sentenceOf(shown)}\n`)
}

export function sentenceOf({ templateID, names, isolation }: Shown): string {
  const engines: Readonly<Record<string, string>> = {
    auto: "each host's own engine (auto)",
    '': 'the engine that it was taken on',
  }
  return `${names[0] ?? templateID} runs on ${engines[isolation ?? ''] ?? isolation}`
}

async function call(config: Config, method: string, name: string, body?: object): Promise<unknown> {
  const path = keyPath(config)
  if (!existsSync(path)) throw new ConfigError("There is no operator's key yet: run 'npm start' first.")
  const url = `http://127.0.0.1:${config.apiPort}/templates/${encodeURIComponent(name)}`
  const answer = await fetch(url, {
    method,
    headers: { 'X-API-Key': readFileSync(path, 'utf8').trim(), 'Content-Type': 'application/json' },
    signal: AbortSignal.timeout(ANSWERS_WITHIN_MS),
    ...(body ? { body: JSON.stringify(body) } : {}),
  }).catch((error: unknown) => {
    throw new Error(`No server answers at ${url}: run 'npm start' first.`, { cause: error })
  })
  const said = (await answer.json()) as { message?: string }
  if (!answer.ok) throw new Error(said.message ?? `The server answered ${answer.status}`)
  return said
}
