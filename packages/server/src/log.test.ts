import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from 'vitest'

const LINES = 20_000
const ENDS_WITHIN_MS = 20_000
const PROGRAM = `
import { openLog } from ${JSON.stringify(join(import.meta.dirname, 'log.ts'))}
const log = openLog('info')
const padding = 'x'.repeat(Number(process.argv[1] ?? 0))
process.stdout.write('ready\\n')
process.stdin.once('data', () => {
  for (let line = 0; line < ${LINES}; line++) log.info({ line, padding })
  if (process.argv.length === 1) process.exit(3)
})
`

let child: ChildProcess
afterEach(() => child.kill('SIGKILL'))

/** A process that logs much at once, when it is told to, and ends; with a length its lines are that long and it stays. */
async function startTalker(...argv: string[]): Promise<void> {
  child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM, ...argv], { stdio: 'pipe' })
  await once(child.stdout!, 'data')
}

async function talk(): Promise<number | null> {
  const ended = once(child, 'exit', { signal: AbortSignal.timeout(ENDS_WITHIN_MS) })
  child.stdin!.write('\n')
  const [code] = (await ended) as [number | null]
  return code
}

test('lines that nobody has read in time are counted', async () => {
  await startTalker('1000')
  child.stdin!.write('\n')
  let kept = 0
  for await (const text of createInterface({ input: child.stderr! })) {
    const { msg, lines } = JSON.parse(text) as { msg?: string; lines: number }
    if (msg !== 'log lines dropped') kept += 1
    else {
      expect(lines).toBeGreaterThan(0)
      expect(kept + lines).toBe(LINES)
      break
    }
  }
})

describe('the log of a process that ends', () => {
  test('is whole', async () => {
    await startTalker()
    const [printed, code] = await Promise.all([text(child.stderr!), talk()])
    expect(code).toBe(3)
    const lines = printed.trimEnd().split('\n')
    expect(lines.map((line) => (JSON.parse(line) as { line: number }).line)).toEqual(
      Array.from({ length: LINES }, (_, line) => line),
    )
  })

  test('does not keep it when the reader has gone', async () => {
    await startTalker()
    child.stderr!.destroy()
    expect(await talk()).toBe(3)
  })

  test('does not keep it when the reader does not read', async () => {
    await startTalker()
    child.stderr!.pause()
    expect(await talk()).toBe(3)
  })
})
