import { Sandbox } from '@e2b/code-interpreter'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'

let sandbox: Sandbox
beforeAll(async () => {
  sandbox = await Sandbox.create()
})
afterAll(() => sandbox?.kill())

const POLL = { timeout: 20_000, interval: 250 }

/** What a language prints, how it reads the variable `ONCE`, and code that needs a second and more. */
const LANGUAGES = {
  python: {
    hello: 'print("hi")',
    read: 'import os; os.environ.get("ONCE", "none")',
    cwd: 'import os; os.getcwd()',
  },
  javascript: { hello: 'console.log("hi")', read: 'process.env.ONCE ?? "none"', cwd: 'process.cwd()' },
  typescript: {
    hello: 'const h: string = "hi"; console.log(h)',
    read: 'process.env.ONCE ?? "none"',
    cwd: 'process.cwd()',
  },
  bash: { hello: 'echo hi', read: 'echo ${ONCE:-none}', cwd: 'pwd' },
  r: { hello: 'cat("hi\\n")', read: 'cat(Sys.getenv("ONCE", "none"))', cwd: 'cat(getwd())' },
  java: {
    hello: 'System.out.println("hi");',
    read: 'System.getProperty("ONCE", "none")',
    cwd: 'System.getProperty("user.dir")',
  },
}

describe.each(Object.entries(LANGUAGES))('%s', (language, { hello, read, cwd }) => {
  const answer = async (code: string, envs = {}): Promise<string> => {
    const { error, results, logs } = await sandbox.runCode(code, { language, envs })
    expect(error).toBeUndefined()
    return (results[0]?.text ?? logs.stdout.join('')).trim()
  }

  it('runs in the home directory', async () => {
    expect(await answer(hello)).toBe('hi')
    expect(await answer(cwd)).toBe('/home/user')
  })

  it('has a variable for one execution', async () => {
    expect(await answer(read, { ONCE: 'x' })).toBe('x')
    expect(await answer(read)).toBe('none')
  })
})

it.each([
  ['r', 'x <- 2; x * 3', '[1] 6'],
  ['java', 'int x = 2; x * 3', '6'],
  ['java', String.raw`"say \"hi\"\n\tü"`, 'say "hi"\n\tü'],
  ['javascript', 'const x = 2; x * 3', '6'],
  ['typescript', 'const x: number = 2; x * 3', '6'],
])('the last value of %s is the text of the cell', async (language, code, text) => {
  expect((await sandbox.runCode(code, { language })).text).toBe(text)
})

it.each([
  ['python', 'import subprocess; r = subprocess.run("echo out; echo err >&2", shell=True)'],
  ['javascript', 'require("child_process").execSync("echo out; echo err >&2", { stdio: "inherit" }); 0'],
  ['bash', 'sh -c "echo out; echo err >&2"'],
  ['r', 'r <- system("echo out; echo err >&2")'],
  ['java', 'new ProcessBuilder("sh", "-c", "echo out; echo err >&2").inheritIO().start().waitFor();'],
])('%s shows what programs write to the streams they inherit', async (language, code) => {
  const { error, logs } = await sandbox.runCode(code, { language })
  expect(error).toBeUndefined()
  const stderr = language === 'bash' ? logs.stdout : logs.stderr
  expect(logs.stdout.join('')).toContain('out')
  expect(stderr.join('')).toContain('err')
})

it('decorators run, those before the standard where the project says so', async () => {
  const standard = '(f: unknown, { name }: { name: string }) => console.log(name)'
  const run = (decorator: string) =>
    sandbox.runCode(`{ const d = ${decorator}; class A { @d method(a: number) {} } }`, { language: 'ts' })
  expect((await run(standard)).logs.stdout).toEqual(['method\n'])
  const options = JSON.stringify({ compilerOptions: { experimentalDecorators: true } })
  await sandbox.files.write('/home/user/tsconfig.json', options)
  const before = '(target: object, name: string) => console.log("before", name)'
  expect((await run(before)).logs.stdout).toEqual(['before method\n'])
  await sandbox.files.remove('/home/user/tsconfig.json')
})

it.each([
  ['r', 'for (i in 1:99) { cat(i); system(paste("printf", i)) }'],
  ['java', 'for (int i = 1; i < 100; i++) { System.out.print(i); sh("printf " + i); }'],
])('%s keeps the order of what it and programs print', async (language, code) => {
  const sh =
    'void sh(String line) throws Exception { new ProcessBuilder("sh", "-c", line).inheritIO().start().waitFor(); }'
  if (language === 'java') await sandbox.runCode(sh, { language })
  const expected = Array.from({ length: 99 }, (_, index) => `${index + 1}`.repeat(2)).join('')
  expect((await sandbox.runCode(code, { language })).logs.stdout.join('')).toBe(expected)
})

it('R shows what it prints while the code runs, however often it prints', async () => {
  const shownAtMs: number[] = []
  const start = Date.now()
  const { logs } = await sandbox.runCode(
    'cat("first\n"); Sys.sleep(2); for (i in 1:200000) cat(i, "\n"); message("told")',
    { language: 'r', onStdout: () => void shownAtMs.push(Date.now() - start) },
  )
  expect(shownAtMs[0]).toBeLessThan(1000)
  expect(logs.stdout.join('').length).toBe(1_488_901)
  expect(logs.stderr.join('')).toBe('told\n')
  expect(Date.now() - start).toBeLessThan(12_000)
}, 60_000)

it('what R last printed is seen when its process is killed', async () => {
  const code = 'cat("last words\n"); tools::pskill(Sys.getpid(), 9); Sys.sleep(5)'
  const { error, logs } = await sandbox.runCode(code, { language: 'r' })
  expect([error?.name, logs.stdout.join('')]).toEqual(['ContextRestarting', 'last words\n'])
})

it('charts have the characters of Chinese, Japanese and Korean', async () => {
  const code =
    'import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.title("中文 日本語 한국어"); plt.show()'
  const { error, logs, results } = await sandbox.runCode(code)
  expect(error).toBeUndefined()
  expect(logs.stderr).toEqual([])
  expect(results[0]?.png).toBeTruthy()
})

it('pictures are Base64 and nothing else', async () => {
  const codes = { python: 'import matplotlib.pyplot as plt; plt.plot([1]); plt.show()', r: 'plot(1)' }
  for (const [language, code] of Object.entries(codes)) {
    expect((await sandbox.runCode(code, { language })).results[0]?.png).toMatch(/^[A-Za-z0-9+/]+=*$/)
  }
})

it.each(['r', 'java'])('variables that cannot be do not keep others of %s away', async (language) => {
  const code = language === 'r' ? 'Sys.getenv("LAST", "none")' : 'System.getProperty("LAST", "none")'
  const envs = { NUL: 'x\0y', '': 'e', 'A=B': 'e', LAST: 'here' }
  expect((await sandbox.runCode(code, { language, envs })).text).toMatch(/here/)
  expect((await sandbox.runCode(code, { language })).text).toMatch(/none/)
})

it('any text is output that the clients can read', async () => {
  const ends = String.fromCodePoint(0x85, 0x2028, 0x2029)
  const code = `print("a${ends}b", chr(0xd800))`
  expect((await sandbox.runCode(code)).logs.stdout.join('')).toBe(`a${ends}b \ufffd\n`)
})

it('R draws each of its plots, and tells of the code alone', async () => {
  const plots = await sandbox.runCode('for (i in 1:2) plot(i)\nplot(3); abline(h = 3)', { language: 'r' })
  expect(plots.results.map(({ png }) => typeof png)).toEqual(['string', 'string', 'string'])
  const code = 'f <- function() stop("bad")\nwarning("w"); f()'
  const { error, logs } = await sandbox.runCode(code, { language: 'r' })
  expect([logs.stderr.join(''), error?.value]).toEqual(['Warning message:\n“w”\n', 'Error in f(): bad\n'])
  expect(error?.traceback).toMatch(/^Error in f\(\): bad\nTraceback:\n1. f\(\)\n2. stop\("bad"\)/)
})

it.each([
  ['r', 'stop("bad")', /bad/],
  ['java', 'throw new IllegalStateException("bad");', /IllegalStateException: bad/],
  ['bash', 'ls /nowhere', /status 2/],
])('an error of %s has name, value and traceback', async (language, code, traceback) => {
  const { error } = await sandbox.runCode(code, { language })
  expect(error?.name).toBeTruthy()
  expect(error?.value).toBeTruthy()
  expect(error?.traceback).toMatch(traceback)
})

it.each([
  ['r', 'Sys.sleep(60)', 'cat("free")'],
  ['java', 'while (true) {}', 'System.out.print("free")'],
  ['bash', 'sleep 60', 'printf free'],
])('%s is free again within a second after the client has left', async (language, code, next) => {
  await expect(sandbox.runCode(code, { language, timeoutMs: 500 })).rejects.toThrow()
  const start = Date.now()
  expect((await sandbox.runCode(next, { language })).logs.stdout.join('')).toBe('free')
  expect(Date.now() - start).toBeLessThan(1000)
})

it.each([
  ['python', 'input("name? ")'],
  [
    'javascript',
    'await require("readline/promises").createInterface({ input: process.stdin }).question("?")',
  ],
  ['r', 'readline("name? ")'],
  ['java', 'new Scanner(System.in).nextLine()'],
])('code of %s that asks for input gets an error', async (language, code) => {
  expect((await sandbox.runCode(code, { language, timeoutMs: 10_000 })).error?.name).toBeTruthy()
})

it('any other installed kernel is used by its name', async () => {
  await sandbox.commands.run('pip install --quiet calysto-scheme==2.1.9', { timeoutMs: 60_000 })
  await sandbox.commands.run('python -m calysto_scheme install --user')
  const { error, logs, results } = await sandbox.runCode('(+ 40 2)', { language: 'calysto_scheme' })
  expect(error).toBeUndefined()
  expect(logs.stdout.join('') + (results[0]?.text ?? '')).toContain('42')
}, 90_000)

it('the tools of an analyst are there, and apt installs more', async () => {
  const { stdout } = await sandbox.commands.run(
    'git --version && curl --version | head -n 1 && ffmpeg -version | head -n 1 && ffprobe -version | head -n 1',
  )
  expect(stdout).toMatch(/git version .*\ncurl .*\nffmpeg version .*\nffprobe version /)
  const packages =
    'numpy pandas matplotlib scipy sklearn seaborn plotly requests openpyxl PIL bs4 sympy bokeh altair'
  const { error } = await sandbox.runCode(`import ${packages.split(' ').join(', ')}`)
  expect(error).toBeUndefined()
  await sandbox.commands.run('sudo apt-get update -qq && sudo apt-get install -y -qq tree', {
    timeoutMs: 120_000,
  })
  expect((await sandbox.commands.run('tree --version')).stdout).toContain('tree v')
}, 180_000)

it('npm packages are there for the running JavaScript kernel, pip packages for Python', async () => {
  await sandbox.commands.run('npm install --silent is-odd@3.0.1 && pip install --quiet cowsay==6.1', {
    timeoutMs: 60_000,
  })
  const javascript = await sandbox.runCode('import isOdd from "is-odd"; isOdd(3)', { language: 'js' })
  expect([javascript.error, javascript.text]).toEqual([undefined, 'true'])
  const python = await sandbox.runCode('import cowsay; cowsay.__name__')
  expect([python.error, python.text]).toEqual([undefined, 'cowsay'])
}, 90_000)

it.each([
  ['Python', 'python', 'ipykernel_launcher', '1 + 1'],
  ['JavaScript', 'js', 'javascript-kernel', '1 + 1'],
])('a killed kernel of %s is told and comes back', async (_name, language, program, code) => {
  const running = sandbox.runCode(
    language === 'js' ? 'await new Promise(() => {})' : 'import time; time.sleep(60)',
    {
      language,
    },
  )
  await new Promise((resolve) => setTimeout(resolve, 500))
  await sandbox.commands.run(`pkill -9 -f ${program.replace(/.$/, '[$&]')} || true`)
  expect((await running).error?.name).toBe('ContextRestarting')
  expect((await sandbox.runCode(code, { language })).text).toBe('2')
})

it('a kernel that takes all memory is ended, and the user is told', async () => {
  const { error } = await sandbox.runCode('x = b"x" * (8 << 30)')
  expect(error?.name).toMatch(/ContextRestarting|MemoryError/)
  expect((await sandbox.runCode('1 + 1')).text).toBe('2')
})

it.each([
  ['Jupyter Server', 'jupyter_server'],
  ['the interpreter', 'interpreter.mjs'],
])('%s recovers when it is killed', async (_name, program) => {
  await sandbox.commands.run(`pkill -9 -f ${program.replace(/.$/, '[$&]')}`, { user: 'root' })
  let text: string | undefined
  for (let attempt = 0; text === undefined && attempt < 60; attempt += 1) {
    await new Promise((resolve) => setTimeout(resolve, 250))
    text = await sandbox.runCode('1 + 1').then(
      (execution) => execution.text,
      () => undefined,
    )
  }
  expect(text).toBe('2')
})

/** Four thousand lines of ten thousand characters, each sent as it is printed. */
const FORTY_MEGABYTES = {
  python: 'for i in range(4000): print("x" * 9999, flush=True)',
  javascript: 'for (let i = 0; i < 4000; i++) console.log("x".repeat(9999))',
  typescript: 'for (let i: number = 0; i < 4000; i++) console.log("x".repeat(9999))',
  bash: 'for i in {1..4000}; do printf "%09999d\\n" 0; done',
  r: 'for (i in 1:4000) { cat(strrep("x", 9999), "\\n", sep = ""); flush(stdout()) }',
  java: 'for (int i = 0; i < 4000; i++) System.out.println("x".repeat(9999));',
}

it.each(Object.entries(FORTY_MEGABYTES))(
  'nothing of %s is dropped when the reader rests',
  async (language, code) => {
    const answer = await fetch(`https://${sandbox.getHost(49999)}/execute`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ code, language }),
    })
    await new Promise((resolve) => setTimeout(resolve, 3000))
    const lines = (await answer.text()).trimEnd().split('\n')
    const texts = lines.map((line): { type: string; text?: string } => JSON.parse(line))
    const printed = texts
      .filter(({ type }) => type === 'stdout')
      .map(({ text }) => text?.replaceAll('\r', ''))
    expect(printed.join('').length).toBe(40_000_000)
    expect(texts.at(-1)?.type).toBe('end_of_execution')
  },
  60_000,
)

/** The most memory that the processes of these programs have ever had, in MiB. */
const PEAKS = `for p in interpreter.mj[s] jupyter_serve[r] ipykernel_launche[r]; do
  for pid in $(pgrep -f $p); do awk '/VmHWM/ { print int($2 / 1024) }' /proc/$pid/status; done | sort -n | tail -n 1
done`

it('a hundred megabytes of text and a picture of 20 MB leave memory as it was', async () => {
  const peaks = async (): Promise<number[]> =>
    (await sandbox.commands.run(PEAKS)).stdout.trim().split('\n').map(Number)
  const before = await peaks()
  let chars = 0
  const code = 'for i in range(105_000): print("x" * 999)\ndisplay({"image/png": "A" * 20_000_000}, raw=True)'
  const { error, results } = await sandbox.runCode(code, {
    onStdout: ({ line }) => {
      chars += line.length
    },
  })
  expect(error).toBeUndefined()
  expect([chars, results[0]?.png?.length]).toEqual([105_000_000, 20_000_000])
  const [service = 0, server = 0, kernel = 0] = (await peaks()).map(
    (peak, index) => peak - (before[index] ?? 0),
  )
  expect(service).toBeLessThan(200)
  expect(server).toBeLessThan(10)
  expect(kernel).toBeLessThan(120)
}, 60_000)

it('the kernels of a killed Jupyter Server end with it, and what ran ends with an error', async () => {
  const kernels = async (): Promise<string[]> =>
    (await sandbox.commands.run('pgrep -a -f [/]kernel-.*json || true')).stdout.split('\n').filter(Boolean)
  for (const language of ['js', 'bash', 'r']) await sandbox.runCode('1', { language })
  expect((await kernels()).length).toBeGreaterThanOrEqual(4)
  const running = sandbox.runCode('import time; time.sleep(60)')
  await new Promise((resolve) => setTimeout(resolve, 500))
  await sandbox.commands.run('pkill -9 -f jupyter_serve[r]', { user: 'root' })
  // Before the new server can have started any.
  await expect.poll(kernels, { timeout: 1000, interval: 50 }).toEqual([])
  expect((await running).error?.name).toBe('WebSocketError')
  await expect.poll(() => sandbox.runCode('1 + 1').then(({ text }) => text, String), POLL).toBe('2')
})
