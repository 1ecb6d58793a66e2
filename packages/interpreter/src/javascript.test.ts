/** Cells of JavaScript and TypeScript, from the service down to the template's kernels. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { type Line, lineOf, parseLine, printedTo, sandboxOfTests } from './testing-sandbox.ts'

const sandbox = sandboxOfTests()

const run = (code: string, fields = {}): Promise<Line[]> =>
  sandbox.execute(code, { language: 'javascript', ...fields })
const value = async (code: string, fields = {}): Promise<unknown> => {
  const lines = await run(code, fields)
  expect(lineOf(lines, 'error')).toBeUndefined()
  return lineOf(lines, 'result')?.text
}

describe('a cell of JavaScript', () => {
  test('gives its value, awaited', async () => {
    expect(await run('await Promise.resolve("Hello World!")')).toEqual([
      { type: 'number_of_executions', execution_count: expect.any(Number) },
      { type: 'result', text: 'Hello World!', extra: {}, is_main_result: true },
      { type: 'end_of_execution' },
    ])
    expect(await value('undefined')).toBeUndefined()
    expect(await value('null')).toBe('null')
    expect(await value('12n')).toBe('12n')
  })

  test('may declare again what an earlier one declared', async () => {
    await run('const a = 1; let b = 2; class C { x = 1 }; function f() { return a }')
    expect(await value('const a = 10; let b = 3; class C { x = 2 }; a + b + new C().x')).toBe('15')
    expect(await value('a')).toBe('10')
  })

  test('imports and requires what Node has and what npm installed', async () => {
    const directory = join(sandbox.home, 'node_modules/own')
    mkdirSync(directory, { recursive: true })
    writeFileSync(join(directory, 'package.json'), '{"name":"own","type":"module","exports":"./own.js"}')
    writeFileSync(join(directory, 'own.js'), 'export const name = "own"; export default 7')
    writeFileSync(
      join(sandbox.home, 'local.cjs'),
      'const late = "kept"; module.exports = Object.assign({}, { late })',
    )
    expect(await value('import seven, { name } from "own"; name + seven')).toBe('own7')
    expect(await value('require("own").name')).toBe('own')
    expect(await value('import { late } from "./local.cjs"; late')).toBe('kept')
    expect(await value('(await import("node:fs")).readFileSync === require("fs").readFileSync')).toBe('true')
    expect(lineOf(await run('import { nothing } from "own"'), 'error')?.value).toContain('nothing')
  })

  test('tells errors with the frames of the cell alone', async () => {
    const error = lineOf(await run('function f() { null.x }\nf()'), 'error')
    expect(error).toMatchObject({ name: 'TypeError', value: expect.stringContaining('null') })
    expect(String(error?.traceback).split('\n').length).toBe(3)
    const wrong = lineOf(await run('\nlet x y'), 'error')
    expect(wrong).toMatchObject({ name: 'SyntaxError', traceback: expect.stringContaining(':2:7\nlet x y') })
  })

  test('prints and keeps errors with the frames of the cell alone', async () => {
    const lines = await run('function fail() { return new Error("no") }\nconsole.log(fail()); fail()')
    const [printed, result] = [printedTo('stdout', lines), lineOf(lines, 'result')?.text]
    expect(String(printed)).toMatch(/^Error: no\n +at fail \(cell-\d+\.js:1:26\)\n +at cell-\d+\.js:2:13\n$/)
    expect(String(result)).toMatch(/^Error: no\n +at fail \(cell-\d+\.js:1:26\)\n +at cell-\d+\.js:2:22$/)
    const own = 'try { require("fs").readFileSync() } catch (error) { error.stack }'
    expect(await value(own)).toMatch(/^TypeError \[ERR_INVALID_ARG_TYPE\]: /)
  })

  test('shows rich results', async () => {
    const lines = await run('display.html("<b>x</b>"); ({ "image/png": new Uint8Array([1, 2, 3]) })')
    expect(lines.filter((line) => line.type === 'result')).toEqual([
      { type: 'result', html: '<b>x</b>', extra: {}, is_main_result: false },
      { type: 'result', png: 'AQID', extra: {}, is_main_result: true },
    ])
    expect(lineOf(await run('({ a: [1] })'), 'result')).toMatchObject({ json: { a: [1] } })
  })

  test('is over when the promise of its last value is, and prints until then', async () => {
    const lines = await run(
      '(async () => { await new Promise((r) => setTimeout(r, 50)); console.log("late") })()',
    )
    expect(printedTo('stdout', lines)).toBe('late\n')
  })

  test('leaves the kernel alive whatever it throws or exits', async () => {
    await run('const kept = 1')
    expect(lineOf(await run('process.exit(3)'), 'error')).toMatchObject({ name: 'SystemExit', value: '3' })
    const late = await run(
      'setTimeout(() => { throw new Error("late") }, 5); await new Promise((r) => setTimeout(r, 50))',
    )
    expect(printedTo('stderr', late)).toContain('Error: late')
    expect(await value('kept')).toBe('1')
  })

  test('prints while it does not yield, ten megabytes in order', async () => {
    const lines = await run('for (let i = 0; i < 100; i++) console.log(String(i).padStart(99999, "."))')
    const text = printedTo('stdout', lines)
    expect(text.length).toBe(100 * 100_000)
    expect(text.endsWith('99\n')).toBe(true)
  })

  test.each([
    ['waited for', 'require("child_process").execSync("echo 1; echo 2 >&2", { stdio: "inherit" })'],
    [
      'awaited',
      'await new Promise((r) => require("child_process").spawn("sh", ["-c", "echo 1; echo 2 >&2"], { stdio: "inherit" }).on("exit", r))',
    ],
  ])('shows what other programs write, in order: %s', async (_name, code) => {
    const lines = await run(`console.log("before"); ${code}; console.log("after"); undefined`)
    expect(lines.filter(({ type }) => type.startsWith('std')).map(({ type, text }) => [type, text])).toEqual([
      ['stdout', 'before\n'],
      ['stdout', '1\n'],
      ['stderr', '2\n'],
      ['stdout', 'after\n'],
    ])
  })

  test('shows what is written to the descriptors themselves', async () => {
    const lines = await run(
      'require("fs").writeSync(1, "1\\n"); require("fs").writeSync(2, "2\\n"); undefined',
    )
    expect([printedTo('stdout', lines), printedTo('stderr', lines)]).toEqual(['1\n', '2\n'])
  })

  test('shows what a program writes while the code waits for it, thirty megabytes', async () => {
    const command = 'echo first; sleep 0.5; head -c 30000000 /dev/zero | tr "\\\\0" x'
    const code = `require("child_process").execSync(${JSON.stringify(command)}, { stdio: "inherit" }); 1`
    const answer = await sandbox.post('/execute', { code, language: 'javascript' })
    const decoder = new TextDecoder()
    let text = ''
    let firstMs = 0
    const start = Date.now()
    for await (const chunk of answer.body!) {
      text += decoder.decode(chunk, { stream: true })
      if (firstMs === 0 && text.includes('first')) firstMs = Date.now() - start
    }
    // The program itself waits half a second between the two.
    expect(Date.now() - start - firstMs).toBeGreaterThan(400)
    const lines = text.trimEnd().split('\n').map(parseLine)
    const printed = printedTo('stdout', lines)
    expect(printed.length).toBe(30_000_000 + 'first\n'.length)
    expect(lineOf(lines, 'result')?.text).toBe('1')
  })

  test('shows all that a program writes before it ends, however much that is', async () => {
    for (let bytes = 100_000; bytes < 600_000; bytes += 12_345) {
      const command = `head -c ${bytes} /dev/zero | tr "\\0" x`
      const code = `require("child_process").execSync(${JSON.stringify(command)}, { stdio: "inherit" }); 1`
      const lines = await run(code)
      expect(printedTo('stdout', lines).length).toBe(bytes)
      expect(lineOf(lines, 'result')?.text).toBe('1')
    }
  })

  test.each([
    'await require("readline/promises").createInterface({ input: process.stdin }).question("name? ")',
    'for await (const line of process.stdin) console.log(line)',
    'process.stdin.resume(); await new Promise(() => {})',
  ])('is refused input: %s', async (code) => {
    expect(lineOf(await run(code), 'error')).toMatchObject({
      name: 'StdinNotImplementedError',
      value: expect.stringContaining('standard input'),
    })
    expect(await value('1')).toBe('1')
  })

  test.each([
    ['a loop', 'while (true) {}'],
    ['a loop after an await', 'await 1; while (true) {}'],
    ['a promise that nobody settles', 'await new Promise(() => {})'],
    ['a child program', 'require("child_process").execSync("sleep 100")'],
  ])('%s is interrupted when the client leaves; state stays', async (_name, code) => {
    await run('const before = 5')
    const left = new AbortController()
    await sandbox.post('/execute', { code, language: 'javascript' }, left.signal)
    await delay(200)
    left.abort()
    const start = Date.now()
    expect(await value('before')).toBe('5')
    expect(Date.now() - start).toBeLessThan(1000)
  })

  test('gets variables for one execution, and its own random numbers in a copy', async () => {
    expect(await value('process.env.ONCE', { env_vars: { ONCE: 'x' } })).toBe('x')
    expect(await value('process.env.ONCE ?? "gone"')).toBe('gone')
    expect(await value('process.cwd()')).toBe(sandbox.home)
    sandbox.variables = { SHARED: 'all' }
    writeFileSync(sandbox.generationFile, JSON.stringify({ generation: 'copy' }))
    expect(await value('process.env.SHARED')).toBe('all')
  })
})

test('TypeScript: types, enums, generic calls', async () => {
  const code =
    'enum E { A, B }\nfunction id<T>(x: T): T { return x }\nconst m: string = id<string>("x"); m + E.B'
  expect(await value(code, { language: 'ts' })).toBe('x1')
})
