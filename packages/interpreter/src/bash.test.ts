/** Cells of Bash, from the service down to the template's kernel. */
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { type Line, lineOf, printedTo, sandboxOfTests } from './testing-sandbox.ts'

const sandbox = sandboxOfTests()

test('a variable of one execution leaves none behind, and an own one as it was', async () => {
  const bash = async (code: string, fields = {}): Promise<string> =>
    printedTo('stdout', await sandbox.execute(code, { language: 'bash', ...fields }))
  await bash('OWN=kept')
  expect(await bash('echo "$OWN $NEW"', { env_vars: { OWN: 'once', NEW: "it's" } })).toBe("once it's\n")
  expect(await bash('echo "$OWN ${NEW-gone}"')).toBe('kept gone\n')
  expect(await bash('env | grep -c ^OWN=')).toBe('0\n')
})

describe('a cell of Bash', () => {
  const bash = (code: string): Promise<Line[]> => sandbox.execute(code, { language: 'bash' })
  const printed = (lines: Line[]): string => printedTo('stdout', lines)

  test('prints in order what its programs write, line by line as they do', async () => {
    const start = Date.now()
    const lines = await bash('echo "ü 😀"; ls /nope; seq 1 100000 | tail -n 1; (sleep 0.2; echo late)')
    expect(printed(lines)).toMatch(/^ü 😀\nls: .*\n100000\nlate\n$/)
    expect(lines.filter(({ type }) => type === 'stdout').length).toBeGreaterThan(1)
    expect(printed(await bash('seq 1 200000')).length).toBe(1_288_895)
    expect(Date.now() - start).toBeLessThan(5000)
  })

  test.each([
    ['false', '1'],
    ['no-such-program', '127'],
    ['if true; then', '2'],
    ['exit 3', '3'],
    ['kill -9 $$', '-9'],
  ])('that fails tells its status: %s', async (code, status) => {
    expect(lineOf(await bash(code), 'error')).toMatchObject({
      name: 'ExitStatus',
      value: status,
      traceback: expect.stringContaining(status),
    })
    expect(printed(await bash('echo on'))).toBe('on\n')
  })

  test('keeps directory, variables, functions and aliases, and cannot disturb the kernel', async () => {
    await bash('cd /tmp; A=1; declare -A m=([k]=v); f() { echo "f $1"; }; alias z="echo aliased"; PS1=prompt')
    expect(
      printed(await bash('pwd; echo $A ${m[k]}; f x; z; read line; break 2>/dev/null; echo "a!b"')),
    ).toBe('/tmp\n1 v\nf x\naliased\na!b\n')
    await bash('cd ~')
  })

  test.each([
    ['a program', 'sleep 100'],
    ['a loop', 'while true; do :; done'],
    ['a program that ignores interrupts', "trap '' INT; sleep 100"],
  ])('%s is interrupted when the client leaves', async (_name, code) => {
    const left = new AbortController()
    await sandbox.post('/execute', { code, language: 'bash' }, left.signal)
    await delay(200)
    left.abort()
    const start = Date.now()
    expect(printed(await bash('echo free'))).toBe('free\n')
    expect(Date.now() - start).toBeLessThan(1200)
  })

  test('in a shell that follows one that ended has the variables and the directory of the sandbox', async () => {
    const context = await sandbox.post('/contexts', { language: 'bash', cwd: '/tmp' })
    const { id }: { id: string } = JSON.parse(await context.text())
    const run = (code: string): Promise<Line[]> => sandbox.execute(code, { context_id: id })
    sandbox.variables = { WIDE: "it's" }
    writeFileSync(sandbox.generationFile, JSON.stringify({ generation: 'shell' }))
    expect(printed(await run('pwd; echo "$WIDE"'))).toBe("/tmp\nit's\n")
    await run('cd /; set -e; false')
    expect(printed(await run('pwd; echo "$WIDE"'))).toBe("/tmp\nit's\n")
    await sandbox.execute('exit', { context_id: id, env_vars: { WIDE: 'once' } })
    expect(printed(await run('echo "$WIDE"'))).toBe("it's\n")
  })

  test('lets programs in the background print, and shows the end of it with the next cell', async () => {
    const lines = 'for i in $(seq 30000); do echo "line $i"; done'
    await bash(`rm -f ~/ended; (${lines}; touch ~/ended) & :`)
    await expect.poll(() => existsSync(join(sandbox.home, 'ended')), { timeout: 10_000 }).toBe(true)
    expect(printed(await bash('echo next'))).toMatch(/line 29999\nline 30000\nnext\n$/)
  })

  test('ends while a program in the background does not stop printing', async () => {
    expect(printed(await bash('yes & sleep 0.2; echo on')).length).toBeGreaterThan(10_000)
    expect(printed(await bash('kill %1; echo over'))).toContain('over\n')
  })

  test('is not disturbed by pagers, nor by functions of the same names as the kernel needs', async () => {
    expect(printed(await bash('echo $PAGER $GIT_PAGER; history'))).toBe('cat cat\n')
    expect(printed(await bash('printf() { echo mine; }; eval() { echo mine; }; echo on'))).toBe('on\n')
    expect(await bash('unset -f printf eval; true')).not.toContainEqual(
      expect.objectContaining({ type: 'error' }),
    )
  })

  test('runs also where the start-up file of the user ends the shell', async () => {
    writeFileSync(join(sandbox.home, '.bashrc'), 'exit 1\n')
    try {
      expect(printed(await bash('exit 0'))).toBe('exit\nRestarting Bash\n')
      expect(printed(await bash('echo on'))).toBe('on\n')
    } finally {
      rmSync(join(sandbox.home, '.bashrc'))
    }
  })

  test('shows rich results', async () => {
    expect(lineOf(await bash('echo "<b>x</b>" | displayHTML'), 'result')).toMatchObject({
      html: '<b>x</b>\n',
    })
    const image = 'echo iVBORw0KGgoAAAANSUhEUg== | base64 -d | display'
    expect(lineOf(await bash(image), 'result')).toMatchObject({ png: 'iVBORw0KGgoAAAANSUhEUg==' })
  })
})
