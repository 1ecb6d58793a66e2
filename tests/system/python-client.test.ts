import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, inject, it } from 'vitest'
import { loadConfig } from '../../packages/server/src/config.ts'
import { clientsVenv } from '../../packages/server/src/setup/python-clients.ts'

const root = join(import.meta.dirname, '../..')
const python = join(clientsVenv(loadConfig()), 'bin', 'python')

/** Runs Python with the environment of a client of the tests' server. */
async function runPython(args: string[]): Promise<{ status: number | null; output: string }> {
  const child = spawn(python, args, { cwd: root, env: { ...process.env, ...inject('clientEnv') } })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString()
    })
  }
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, output }
}

it('the official Python clients pass their tests', async () => {
  const { status, output } = await runPython(['-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/python'])
  expect(status, output).toBe(0)
}, 180_000)

it('the quickstart example runs and saves its chart', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'e2b-example-'))
  try {
    const chart = join(dir, 'chart.png')
    const { status, output } = await runPython(['examples/quickstart.py', chart])
    expect(status, output).toBe(0)
    expect(output).toContain('hello from the sandbox')
    expect(output).toContain('ZeroDivisionError: division by zero')
    expect(readFileSync(chart).subarray(1, 4).toString()).toBe('PNG')
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
})
