import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { afterEach, describe, expect, test } from 'vitest'

const LINES = 20_000
const ENDS_WITHIN_MS = 20_000
const PROGRAM = `
import { openLog } from ${JSON.stringify(join(import.meta.dirname, 'log.ts'))}
const log = openLog('info')
process.stdout.write('ready\\n')
process.stdin.once('data', () => {
  for (let line = 0; line < ${LINES}; line++) log.info({ line })
  process.exit(3)
})
`

let child: ChildProcess
afterEach(() => child.kill('SIGKILL'))

/** A process that logs much at once and ends when it is told to. */
async function startTalker(): Promise<void> {
  child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM], { stdio: 'pipe' })
  await once(child.stdout!, 'data')
}

async function talk(): Promise<number | null> {
  const ended = once(child, 'exit', { signal: AbortSignal.timeout(ENDS_WITHIN_MS) })
  child.stdin!.write('\n')
  const [code] = (await ended) as [number | null]
  return code
}

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
