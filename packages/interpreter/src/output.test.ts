/** Much output and slow readers: nothing is lost, nothing piles up. */
import { type IncomingMessage, request } from 'node:http'
import { setTimeout as delay, setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { type Line, parseLine, residentMib, sandboxOfTests } from './testing-sandbox.ts'

const sandbox = sandboxOfTests()

/** An execution whose answer is read only when the test does so. */
function unread(code: string, fields: Record<string, unknown> = {}): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'x-access-token': sandbox.token }
    const call = request(sandbox.url('/execute'), { method: 'POST', headers, agent: false }, resolve)
    call.on('error', reject)
    call.end(JSON.stringify({ code, ...fields }))
  })
}

async function* linesOf(answer: IncomingMessage): AsyncGenerator<Line> {
  let pieces: string[] = []
  for await (const chunk of answer.setEncoding('utf8') as AsyncIterable<string>) {
    const [first = '', ...others] = chunk.split('\n')
    pieces.push(first)
    for (const other of others) {
      yield parseLine(pieces.join(''))
      pieces = [other]
    }
  }
}

const numberOf = async (code: string, fields = {}): Promise<number> => {
  const lines = await sandbox.execute(code, fields)
  return Number(lines.find(({ type }) => type === 'result')?.text)
}
const pidOf = (language: string): Promise<number> =>
  language === 'python' ? numberOf('import os; os.getpid()') : numberOf('process.pid', { language })

/** How much more memory the kernel, Jupyter Server, and service and client together take, at most. */
class Growth {
  readonly #pids: readonly (number | 'self')[]
  readonly #before: readonly number[]
  readonly #most: number[]
  readonly #timer: NodeJS.Timeout

  constructor(kernelPid: number) {
    this.#pids = [kernelPid, sandbox.jupyterPid, 'self']
    this.#before = this.#pids.map(residentMib)
    this.#most = [...this.#before]
    this.#timer = setInterval(() => this.#look(), 20)
  }

  #look(): void {
    for (const [index, pid] of this.#pids.entries()) {
      this.#most[index] = Math.max(this.#most[index] ?? 0, residentMib(pid))
    }
  }

  stop(): { kernel: number; server: number; service: number } {
    clearInterval(this.#timer)
    const [kernel = 0, server = 0, service = 0] = this.#most.map(
      (most, index) => most - (this.#before[index] ?? 0),
    )
    return { kernel, server, service }
  }
}

/** What `seq 0 7999999` prints. */
const SEQUENCE_CHARS = 62_888_890

const LINES = 105_000
const LINE_CHARS = 1000

describe('a hundred megabytes of text for a reader that rests', () => {
  const codes = {
    python: { mostMib: 20, code: `for i in range(${LINES}): print(str(i).zfill(${LINE_CHARS - 1}))` },
    // What V8 has not collected yet.
    javascript: {
      mostMib: 90,
      code: `for (let i = 0; i < ${LINES}; i++) console.log(String(i).padStart(${LINE_CHARS - 1}, '0'))`,
    },
  }

  test.each(Object.entries(codes))(
    '%s',
    async (language, { code, mostMib }) => {
      const growth = new Growth(await pidOf(language))
      const answer = await unread(code, { language })
      await delay(2000)
      let next = 0
      let rest = ''
      for await (const line of linesOf(answer)) {
        if (line.type !== 'stdout') continue
        const parts = (rest + String(line.text)).split('\n')
        rest = parts.pop() ?? ''
        for (const part of parts) {
          if (Number(part) !== next || part.length !== LINE_CHARS - 1)
            throw new Error(`line ${next}: ${part}`)
          next += 1
        }
      }
      expect(next).toBe(LINES)
      const { kernel, server, service } = growth.stop()
      expect(kernel).toBeLessThan(mostMib)
      expect(server).toBeLessThan(10)
      expect(service).toBeLessThan(150)
    },
    60_000,
  )
})

describe('python', () => {
  test('one print of a hundred megabytes arrives whole', async () => {
    const growth = new Growth(await pidOf('python'))
    const answer = await unread('print("é" * 100 * 2**20)')
    await delay(1000)
    let chars = 0
    for await (const line of linesOf(answer)) if (line.type === 'stdout') chars += String(line.text).length
    expect(chars).toBe(100 * 2 ** 20 + 1)
    const { server, service } = growth.stop()
    expect(server).toBeLessThan(10)
    expect(service).toBeLessThan(150)
  }, 60_000)

  test('twenty pictures of 20 MB wait in the kernel for a reader that rests', async () => {
    const growth = new Growth(await pidOf('python'))
    const answer = await unread(
      'for i in range(20): display({"image/png": str(i) + "A" * 20_000_000}, raw=True)',
    )
    await delay(2000)
    const starts: string[] = []
    for await (const line of linesOf(answer)) {
      if (line.type === 'result') starts.push(String(line.png).slice(0, 3).replace(/A+$/, ''))
    }
    expect(starts).toEqual(Array.from({ length: 20 }, (_, index) => String(index)))
    const { kernel, server, service } = growth.stop()
    expect(kernel).toBeLessThan(200)
    expect(server).toBeLessThan(10)
    expect(service).toBeLessThan(400)
  }, 60_000)

  test('ten thousand flushed prints for a reader that rests', async () => {
    const answer = await unread('for i in range(10_000): print(i, flush=True)')
    await delay(1500)
    const texts: unknown[] = []
    for await (const line of linesOf(answer)) if (line.type === 'stdout') texts.push(line.text)
    expect(texts.join('')).toBe(Array.from({ length: 10_000 }, (_, index) => `${index}\n`).join(''))
  }, 30_000)

  test('output of a program waits as well', async () => {
    const growth = new Growth(await pidOf('python'))
    const answer = await unread('import subprocess; subprocess.run(["seq", "0", "7999999"]); None')
    await delay(2000)
    let chars = 0
    for await (const line of linesOf(answer)) {
      if (line.type === 'stdout') chars += String(line.text).length
    }
    expect(chars).toBe(SEQUENCE_CHARS)
    expect(growth.stop().kernel).toBeLessThan(20)
  }, 60_000)
})

const ENDLESS = {
  python: 'while True: print("x" * 1000)',
  javascript: 'for (;;) console.log("x".repeat(1000))',
  bash: 'yes',
}

test.each(Object.entries(ENDLESS))(
  'a reader that has stopped holds the code; when it leaves, the kernel is free within a second: %s',
  async (language, code) => {
    await sandbox.execute('1', { language })
    const answer = await unread(code, { language })
    await delay(2000)
    answer.destroy()
    const start = performance.now()
    const lines = await sandbox.execute(language === 'bash' ? 'echo 2' : '1 + 1', { language })
    expect(performance.now() - start).toBeLessThan(1000)
    expect(lines.map(({ text }) => String(text ?? '').trim())).toContain('2')
  },
  30_000,
)

const NEVER_IDLE = `
import sys
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
class Kernel(IPythonKernel):
    def _publish_status(self, status, *args, **options):
        if status != 'idle' or not self.shell.user_ns.get('never_idle'):
            super()._publish_status(status, *args, **options)
IPKernelApp.launch_instance(argv=['-f', sys.argv[1]], kernel_class=Kernel)
`

test('an execution with its reply but never idle ends with what it has', async () => {
  sandbox.installKernel('never-idle', NEVER_IDLE)
  await sandbox.execute('1', { language: 'never-idle' })
  const start = performance.now()
  const lines = await sandbox.execute('never_idle = True\nprint("here")\n7', { language: 'never-idle' })
  expect(lines.map(({ type }) => type).filter((type) => type !== 'keepalive')).toEqual([
    'number_of_executions',
    'stdout',
    'result',
    'end_of_execution',
  ])
  expect(performance.now() - start).toBeLessThan(6000)
}, 30_000)

/** Tells that it is idle, and later of an error, by its reply alone. */
const LATE_REPLY = `
import sys, time
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
class Kernel(IPythonKernel):
    async def do_execute(self, code, *args, **options):
        reply = await super().do_execute(code, *args, **options)
        if 'late' not in code: return reply
        sys.stdout.flush()
        self._publish_status('idle', 'shell')
        time.sleep(0.3)
        return {**reply, 'status': 'error', 'ename': 'Late', 'evalue': 'by the reply', 'traceback': []}
IPKernelApp.launch_instance(argv=['-f', sys.argv[1]], kernel_class=Kernel)
`

test('an error that comes by a late reply alone is told, also by a service that was busy meanwhile', async () => {
  sandbox.installKernel('late-reply', LATE_REPLY)
  await sandbox.execute('1', { language: 'late-reply' })
  const answer = await unread('print("late")', { language: 'late-reply' })
  const errors: unknown[] = []
  for await (const line of linesOf(answer)) {
    if (line.type === 'error') errors.push(line.name)
    if (line.type !== 'stdout') continue
    await delay(100)
    // What is due comes before what has come in, when the thread is free again.
    await nextTurn()
    beBusy(1000)
  }
  expect(errors).toEqual(['Late'])
}, 30_000)

/** As in a sandbox that was frozen: nothing else happens in this thread, which is the service's too. */
function beBusy(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms)
}
