import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { inject } from 'vitest'
import { loadConfig } from '../../../packages/server/src/config.ts'
import { clientsVenv } from '../../../packages/server/src/setup/python-clients.ts'

const root = join(import.meta.dirname, '../../..')

/** The interpreter of the environment with the official clients. */
export const python = join(clientsVenv(loadConfig()), 'bin', 'python')

export interface Outcome {
  status: number | null
  /** Of both standard streams. */
  output: string
}

/** Runs a program from the root of the repository, as a user does, with the environment of a client of the tests' server. */
export async function runClientProgram(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Outcome> {
  const child = spawn(program, args, {
    cwd: root,
    env: { ...process.env, ...inject('clientEnv'), ...env, PYTHONDONTWRITEBYTECODE: '1' },
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
  }
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, output }
}
