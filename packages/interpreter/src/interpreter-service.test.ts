import { writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { type Line, lineOf, parseLine, printedTo, residentMib, sandboxOfTests } from './testing-sandbox.ts'

const sandbox = sandboxOfTests()

const textOf = (lines: Line[]): unknown => lineOf(lines, 'result')?.text
const created = async (fields: Record<string, unknown> = {}): Promise<string> => {
  const context: { id: string } = JSON.parse(await (await sandbox.post('/contexts', fields)).text())
  return context.id
}

describe('the stream of an execution', () => {
  test('a value: count, result, end', async () => {
    const id = await created()
    expect(await sandbox.execute('x = "a"; x', { context_id: id })).toEqual([
      { type: 'number_of_executions', execution_count: 1 },
      { type: 'result', text: 'a', extra: {}, is_main_result: true },
      { type: 'end_of_execution' },
    ])
    const second = await sandbox.execute('x', { context_id: id, env_vars: { A: 'b' } })
    expect(lineOf(second, 'number_of_executions')?.execution_count).toBe(2)
    const third = await sandbox.execute('_', { context_id: id })
    expect(lineOf(third, 'number_of_executions')?.execution_count).toBe(3)
    expect(textOf(third)).toBe('a')
  })

  test('output keeps its order and carries a time', async () => {
    const code =
      'import sys\nprint("one", flush=True)\nprint("two", file=sys.stderr, flush=True)\nprint("three")'
    const lines = (await sandbox.execute(code)).filter((line) => line.type.startsWith('std'))
    expect(lines.map(({ type, text }) => [type, text])).toEqual([
      ['stdout', 'one\n'],
      ['stderr', 'two\n'],
      ['stdout', 'three\n'],
    ])
    expect(Number.isNaN(Date.parse(String(lines[0]?.timestamp)))).toBe(false)
  })

  test('an error has name, value and a traceback without colours', async () => {
    const error = lineOf(await sandbox.execute('1/0'), 'error')
    expect(error).toMatchObject({ name: 'ZeroDivisionError', value: 'division by zero' })
    expect(String(error?.traceback)).toContain('1/0')
    expect(String(error?.traceback)).not.toContain('\u001b')
  })

  test('text that ends lines elsewhere, or is no text, is one line that every client can read', async () => {
    const code = String.raw`print("a\u0085b\u2028c\u2029d\ud800e\\ud800"); raise ValueError("f\udcff")`
    const answer = await sandbox.post('/execute', { code })
    const body = await answer.text()
    expect(body).not.toMatch(/[\u0085\u2028\u2029]/)
    const lines = body.trimEnd().split('\n').map(parseLine)
    expect(printedTo('stdout', lines)).toBe('a\u0085b\u2028c\u2029d\ufffde\\ud800\n')
    expect(lineOf(lines, 'error')).toMatchObject({ name: 'ValueError', value: 'f\ufffd' })
  })

  test.each(['python', 'javascript', 'bash'])(
    'half a character in code of %s is not met with silence',
    async (language) => {
      const lines = await sandbox.execute('"\ud800"', { language })
      expect(lines.map(({ type }) => type)).toEqual([
        'number_of_executions',
        expect.stringMatching(/error|result|stdout/),
        ...(language === 'bash' ? ['error'] : []),
        'end_of_execution',
      ])
    },
  )

  test('silence is broken by keepalives', async () => {
    const lines = await sandbox.execute('import time; time.sleep(1.3)')
    expect(lines.filter((line) => line.type === 'keepalive').length).toBeGreaterThanOrEqual(2)
    expect(lines.at(-1)?.type).toBe('end_of_execution')
  })

  test('a figure is a picture and a chart, a frame is data', async () => {
    const plot = 'import matplotlib.pyplot as plt\nplt.bar(["a", "b"], [1, 2])\nplt.show()'
    const figure = lineOf(await sandbox.execute(plot), 'result')
    expect(figure).toMatchObject({ is_main_result: false, chart: { type: 'bar', title: null } })
    expect(Buffer.from(String(figure?.png), 'base64').subarray(1, 4).toString()).toBe('PNG')
    const frame = lineOf(await sandbox.execute('import pandas; pandas.DataFrame({"a": [1, 2]})'), 'result')
    expect(frame).toMatchObject({ is_main_result: true, data: { a: [1, 2] } })
    expect(String(frame?.html)).toContain('<table')
  })

  test('floating point numbers stay what they are', async () => {
    const answer = await sandbox.post('/execute', { code: '{"a": [1.0, 2, 12345678901234567890]}' })
    expect(await answer.text()).toContain('"json":{"a":[1.0,2,12345678901234567890]}')
  })

  test('thirty megabytes of output arrive whole though the reader is slow', async () => {
    const answer = await sandbox.post('/execute', { code: 'for _ in range(30): print("x" * 2**20)' })
    let pending = ''
    let length = 0
    for await (const chunk of answer.body!.pipeThrough(new TextDecoderStream())) {
      if (pending.length === 0) await delay(2)
      const lines = (pending + chunk).split('\n')
      pending = lines.pop() ?? ''
      for (const line of lines.map(parseLine)) length += line.type === 'stdout' ? String(line.text).length : 0
    }
    expect(length).toBe(30 * (2 ** 20 + 1))
  }, 60_000)
})

describe('contexts', () => {
  test('are listed in order, keep state apart, have their directory', async () => {
    const id = await created({ cwd: '/' })
    const list: { id: string }[] = JSON.parse(await (await fetch(sandbox.url('/contexts'))).text())
    expect(list.at(-1)).toEqual({ id, language: 'python', cwd: '/' })
    await sandbox.execute('y = 1', { context_id: id })
    expect(lineOf(await sandbox.execute('y'), 'error')?.name).toBe('NameError')
    expect(textOf(await sandbox.execute('import os; os.getcwd()', { context_id: id }))).toBe('/')
    expect(textOf(await sandbox.execute('import os; os.getcwd()'))).toBe(sandbox.home)
  })

  test('restart keeps the id, the directory and nothing else', async () => {
    const id = await created({ cwd: '/tmp' })
    const running = sandbox.execute('z = 1\nimport time; time.sleep(60)', { context_id: id })
    await delay(300)
    const answer = await sandbox.post(`/contexts/${id}/restart`, {})
    expect([answer.status, await answer.text()]).toEqual([200, 'null'])
    expect(lineOf(await running, 'error')).toMatchObject({
      name: 'ContextRestarting',
      value: 'Context was restarted',
    })
    expect(lineOf(await sandbox.execute('z', { context_id: id }), 'error')?.name).toBe('NameError')
    expect(textOf(await sandbox.execute('import os; os.getcwd()', { context_id: id }))).toBe('/tmp')
  }, 30_000)

  test('are gone after their removal', async () => {
    const id = await created()
    const answer = await fetch(sandbox.url(`/contexts/${id}`), { method: 'DELETE' })
    expect([answer.status, await answer.text()]).toEqual([200, 'null'])
    const missing = await sandbox.post('/execute', { code: '1', context_id: id })
    expect([missing.status, await missing.text()]).toEqual([404, `Context ${id} not found`])
  })

  test('twenty at once, twice', async () => {
    for (let round = 0; round < 2; round += 1) {
      const ids = await Promise.all(Array.from({ length: 20 }, () => created()))
      const answers = await Promise.all(ids.map((id) => sandbox.execute('1 + 1', { context_id: id })))
      expect(answers.map(textOf)).toEqual(ids.map(() => '2'))
      await Promise.all(ids.map((id) => fetch(sandbox.url(`/contexts/${id}`), { method: 'DELETE' })))
    }
  }, 90_000)

  test('the default one is known as `default`, and not listed so', async () => {
    const set = await sandbox.execute('by_alias = 7', { context_id: 'default' })
    expect(set.map(({ type }) => type)).toEqual(['number_of_executions', 'end_of_execution'])
    expect(textOf(await sandbox.execute('by_alias'))).toBe('7')
    expect(await (await fetch(sandbox.url('/contexts'))).text()).not.toContain('"default"')
  })

  test('run one execution at a time, and side by side with others', async () => {
    const id = await created()
    const code = 'import time; a = time.time(); time.sleep(0.5); (a, time.time())'
    const times = (lines: Line[]): number[] =>
      JSON.parse(String(textOf(lines)).replace('(', '[').replace(')', ']'))
    const [first, second, other] = await Promise.all([
      sandbox.execute(code, { context_id: id }),
      sandbox.execute(code, { context_id: id }),
      sandbox.execute(code),
    ])
    expect(times(second)[0]).toBeGreaterThanOrEqual(times(first)[1]!)
    expect(times(other)[0]).toBeLessThan(times(first)[1]!)
  })

  test('a language gets its own default context; an unknown one is refused in words', async () => {
    const lines = await sandbox.execute('echo "$TERM_TEST $PWD"', {
      language: 'bash',
      env_vars: { TERM_TEST: "it's" },
    })
    expect(printedTo('stdout', lines)).toBe(`it's ${sandbox.home}\n`)
    const answer = await sandbox.post('/execute', { code: '1', language: 'cobol' })
    expect([answer.status, await answer.text()]).toEqual([500, expect.stringContaining('cobol')])
    const both = await sandbox.post('/execute', { code: '1', language: 'python', context_id: 'x' })
    expect(both.status).toBe(400)
  })
})

describe('what goes wrong', () => {
  test('a client that leaves frees the kernel within a second', async () => {
    const left = new AbortController()
    const code = 'import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    time.sleep(60)'
    await sandbox.post('/execute', { code }, left.signal)
    await delay(300)
    left.abort()
    const start = Date.now()
    expect(textOf(await sandbox.execute('40 + 2'))).toBe('42')
    expect(Date.now() - start).toBeLessThan(1000)
  })

  test('a kernel that dies ends its execution with an error and comes back', async () => {
    const id = await created()
    const lines = await sandbox.execute('import os; os._exit(1)', { context_id: id })
    expect(lineOf(lines, 'error')?.name).toBe('ContextRestarting')
    expect(lines.at(-1)?.type).toBe('end_of_execution')
    expect(textOf(await sandbox.execute('1 + 1', { context_id: id }))).toBe('2')
  }, 20_000)

  test('a kernel that is killed, as for want of memory, ends its execution with an error', async () => {
    const id = await created()
    const pid = Number(textOf(await sandbox.execute('import os; os.getpid()', { context_id: id })))
    const running = sandbox.execute('import time; print("here", flush=True); time.sleep(60)', {
      context_id: id,
    })
    await delay(300)
    process.kill(pid, 'SIGKILL')
    const lines = await running
    expect(lines.map(({ type }) => type)).toEqual([
      'number_of_executions',
      'stdout',
      'error',
      'end_of_execution',
    ])
    expect(lineOf(lines, 'error')).toMatchObject({
      name: 'ContextRestarting',
      value: 'Context was restarted',
    })
    const [first, second] = await Promise.all([
      sandbox.execute('1 + 1', { context_id: id }),
      sandbox.execute('1 + 2', { context_id: id }),
    ])
    expect([textOf(first), textOf(second)]).toEqual(['2', '3'])
  }, 20_000)

  test('a killed Jupyter Server takes its kernels along; an error now, healthy again soon', async () => {
    const pids = [
      textOf(await sandbox.execute('import os; os.getpid()')),
      textOf(await sandbox.execute('process.pid', { language: 'js' })),
    ].map(Number)
    expect(pids.map(residentMib).every((mib) => mib > 0)).toBe(true)
    const running = sandbox.execute('import time; time.sleep(60)')
    await delay(300)
    sandbox.killJupyter()
    expect(lineOf(await running, 'error')?.name).toBe('WebSocketError')
    await expect.poll(() => pids.map(residentMib), { timeout: 1000, interval: 20 }).toEqual([0, 0])
    sandbox.startJupyter()
    await sandbox.becomesHealthy()
    expect(textOf(await sandbox.execute('1 + 1'))).toBe('2')
  }, 60_000)

  test('bad bodies are refused', async () => {
    expect((await sandbox.post('/execute', { code: 1 })).status).toBe(422)
    expect((await sandbox.post('/execute', { code: '1', env_vars: { A: 1 } })).status).toBe(422)
    expect((await sandbox.post('/execute', { code: '1', env_vars: ['A'] })).status).toBe(422)
    const garbage = await fetch(sandbox.url('/execute'), { method: 'POST', body: '{' })
    expect(garbage.status).toBe(422)
  })

  test('any page may call', async () => {
    const answer = await fetch(sandbox.url('/execute'), {
      method: 'OPTIONS',
      headers: { origin: 'http://x' },
    })
    expect([answer.status, answer.headers.get('access-control-allow-origin')]).toEqual([200, '*'])
  })
})

describe('variables and copies', () => {
  const start = (generation: string): void =>
    writeFileSync(sandbox.generationFile, JSON.stringify({ generation }))
  const read = async (name: string, fields = {}): Promise<unknown> =>
    textOf(await sandbox.execute(`import os; os.environ.get("${name}", "unset")`, fields))

  test('those of the sandbox are set, those of an execution are taken back exactly', async () => {
    sandbox.variables = { SHARED: 'sandbox "quoted" \\ ☃' }
    start('first')
    expect(await read('SHARED')).toBe('sandbox "quoted" \\\\ ☃')
    expect(await read('SHARED', { env_vars: { SHARED: 'mine', OTHER: 'x' } })).toBe('mine')
    expect(await read('SHARED')).toBe('sandbox "quoted" \\\\ ☃')
    expect(await read('OTHER')).toBe('unset')
    await sandbox.execute('os.environ["OWN"] = "kept"')
    await sandbox.execute('1/0', { env_vars: { OWN: 'once' } })
    expect(await read('OWN')).toBe('kept')
    expect(textOf(await sandbox.execute('"p" in globals() or "arg" in globals()'))).toBe('False')
  })

  test.each(['python', 'javascript', 'bash'])(
    'those that cannot be do not keep others away: %s',
    async (language) => {
      const env_vars = { '': 'e', 'A=B': 'e', NUL: 'x\0y', HALF: '\ud800', LAST: 'here' }
      const read = {
        python: 'import os; print(os.getenv("LAST"))',
        javascript: 'console.log(process.env.LAST)',
      }
      const code = read[language as keyof typeof read] ?? 'echo ${LAST-None}'
      const lines = await sandbox.execute(code, { language, env_vars })
      expect(printedTo('stdout', lines)).toBe('here\n')
      expect(printedTo('stdout', await sandbox.execute(code, { language }))).toMatch(/^(None|undefined)\n$/)
    },
  )

  test('a new start of the sandbox brings its variables and its own random numbers', async () => {
    const code = 'import random, numpy\n(random.random(), numpy.random.rand())'
    const seeded = 'import random, numpy\nrandom.seed(1); numpy.random.seed(1)'
    const draw = async (generation: string): Promise<unknown> => {
      await sandbox.execute(seeded)
      sandbox.variables = { SHARED: generation }
      start(generation)
      return textOf(await sandbox.execute(code))
    }
    await sandbox.execute(seeded)
    const unchanged = textOf(await sandbox.execute(code))
    const second = await draw('second')
    expect(await read('SHARED')).toBe('second')
    const third = await draw('third')
    expect(new Set([unchanged, second, third]).size).toBe(3)
    const calls = sandbox.agentCalls
    await sandbox.execute('1')
    expect(sandbox.agentCalls).toBe(calls)
  })

  test('without the right token the code runs and later gets its variables', async () => {
    sandbox.variables = { LATE: 'here' }
    start('fourth')
    const token = sandbox.token
    sandbox.token = 'changed'
    const refused = await fetch(sandbox.url('/execute'), {
      method: 'POST',
      body: JSON.stringify({ code: '7' }),
    })
    expect(await refused.text()).toContain('"text":"7"')
    expect(await read('LATE')).toBe('here')
    sandbox.token = token
  })
})
