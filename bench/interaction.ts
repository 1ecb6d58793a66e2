import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import type { Sandbox } from '@e2b/code-interpreter'
import { type Comparison, sideBySide } from './side-by-side.ts'

/** What a person at a keyboard waits for: commands, echoes, events of files. Official client over TLS. */

const EXEC_ROUNDS = 60
const ECHO_ROUNDS = 400
const EVENT_ROUNDS = 200
const EVENT_WITHIN_MS = 5_000
const BETWEEN_EVENTS_MS = 10
/** For a terminal or a watcher to be at its place. */
const SETTLE_MS = 1_000

export async function measureExec(sandbox: Sandbox): Promise<Comparison> {
  const series = await sideBySide(EXEC_ROUNDS, {
    '`bash -c true` on the host': async () => {
      await once(spawn('/bin/bash', ['-c', 'true'], { stdio: 'ignore' }), 'exit')
    },
    '`commands.run`': () => sandbox.commands.run('true'),
  })
  return { title: 'Exec `true`', series }
}

/** One character to a terminal in which `cat` runs, until it comes back. */
export async function measureEcho(sandbox: Sandbox): Promise<Comparison> {
  let onEcho = (): void => undefined
  const echoed = (): Promise<void> =>
    new Promise((resolve) => {
      onEcho = resolve
    })
  const local = spawn('script', ['-qfc', 'cat', '/dev/null'], { stdio: ['pipe', 'pipe', 'ignore'] })
  local.stdout.on('data', () => onEcho())
  const remote = await sandbox.pty.create({ cols: 80, rows: 24, onData: () => onEcho(), timeoutMs: 0 })
  try {
    await sandbox.pty.sendInput(remote.pid, Buffer.from('exec cat\n'))
    await delay(SETTLE_MS)
    const key = Buffer.from('x')
    const series = await sideBySide(ECHO_ROUNDS, {
      'terminal of the host (`script`)': async () => {
        const echo = echoed()
        local.stdin.write(key)
        await echo
      },
      '`pty.sendInput` to `onData`': async () => {
        const echo = echoed()
        await Promise.all([sandbox.pty.sendInput(remote.pid, key), echo.then(() => undefined)])
      },
      'the echo alone, not the answer': async () => {
        const echo = echoed()
        const startedMs = performance.now()
        const sent = sandbox.pty.sendInput(remote.pid, key)
        await echo
        const tookMs = performance.now() - startedMs
        await sent
        return tookMs
      },
    })
    return { title: 'PTY echo', series }
  } finally {
    await remote.kill()
    local.stdin.end()
    local.kill()
  }
}

/**
 * The same write, seen by `inotifywait` on the host and by the watcher of the official client.
 * @param root of the sandbox, as the host sees it
 */
export async function measureWatch(sandbox: Sandbox, root: string): Promise<Comparison> {
  const path = '/home/user/watched'
  await sandbox.files.write(`${path}/file`, 'x')
  const seenMs = { local: 0, remote: 0 }
  let onBoth = (): void => undefined
  const saw = (who: 'local' | 'remote'): void => {
    seenMs[who] ||= performance.now()
    if (seenMs.local > 0 && seenMs.remote > 0) onBoth()
  }
  const local = spawn('inotifywait', ['-m', '-q', '-e', 'modify', join(root, path)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  createInterface({ input: local.stdout }).on('line', () => saw('local'))
  const remote = await sandbox.files.watchDir(path, ({ type }) => void (type === 'write' && saw('remote')), {
    timeoutMs: 0,
  })
  try {
    await delay(SETTLE_MS)
    const values = { local: [] as number[], remote: [] as number[] }
    for (let round = 0; round < EVENT_ROUNDS; round++) {
      seenMs.local = 0
      seenMs.remote = 0
      const both = new Promise<void>((resolve) => {
        onBoth = resolve
      })
      const startedMs = performance.now()
      appendFileSync(join(root, path, 'file'), 'x')
      const late = AbortSignal.timeout(EVENT_WITHIN_MS)
      await Promise.race([both, once(late, 'abort')])
      if (late.aborted) throw new Error(`no event came: ${JSON.stringify(seenMs)}`)
      values.local.push(seenMs.local - startedMs)
      values.remote.push(seenMs.remote - startedMs)
      await delay(BETWEEN_EVENTS_MS)
    }
    const series = [
      { name: '`inotifywait` on the host', values: values.local },
      { name: '`files.watchDir`', values: values.remote },
    ]
    return { title: 'Write to event', series }
  } finally {
    await remote.stop()
    local.kill()
  }
}
