/**
 * A real Jupyter Server with a real interpreter service for tests, configured as in the template, and a small
 * agent that answers `/envs`. The Python environment is made once and kept: `E2B_TEST_PYTHON_DIR`, else the
 * directory for temporary files.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll } from 'vitest'
import { InterpreterService } from './interpreter-service.ts'

const run = promisify(execFile)
const PACKAGES = [
  ...[
    'jupyter-server==2.21.1',
    'ipykernel==6.31.0',
    'ipython==9.18.1',
    'orjson==3.13.0',
    'bash_kernel==0.10.0',
  ],
  ...['numpy==2.3.5', 'pandas==2.2.3', 'matplotlib==3.10.9', 'pillow==13.0.0'],
]
const REPOSITORY = new URL('../../../', import.meta.url).pathname
const TEMPLATE_FILES = join(REPOSITORY, 'templates/code-interpreter/files')

export interface Line {
  type: string
  [field: string]: unknown
}

/** Makes the Python environment if it is missing. Returns its interpreter. */
export async function pythonEnvironment(): Promise<string> {
  const parent = process.env.E2B_TEST_PYTHON_DIR ?? join(tmpdir(), 'e2b-test-python')
  const venv = join(parent, 'interpreter')
  const complete = join(venv, 'complete')
  if (!existsSync(complete) || readFileSync(complete, 'utf8') !== PACKAGES.join(' ')) {
    await run('python3', ['-m', 'venv', venv])
    await run(join(venv, 'bin/pip'), ['install', '--quiet', ...PACKAGES])
    writeFileSync(complete, PACKAGES.join(' '))
  }
  return join(venv, 'bin/python')
}

export class TestingSandbox {
  readonly directory = mkdtempSync(join(tmpdir(), 'interp-'))
  readonly home = join(this.directory, 'home')
  /** Answers what `variables` says to who has the token. */
  readonly #agent = createServer((request, response) => {
    this.agentCalls += 1
    const isAllowed = request.headers['x-access-token'] === this.token
    response.writeHead(isAllowed ? 200 : 401).end(JSON.stringify(this.variables))
  })
  #python = ''
  #service: InterpreterService | undefined
  #jupyter: ChildProcess | undefined
  port = 0
  /** What the agent answers, and the token it wants. */
  variables: Record<string, string> = {}
  token = 'secret'
  agentCalls = 0

  async start(): Promise<void> {
    this.#python = await pythonEnvironment()
    mkdirSync(this.home)
    mkdirSync(this.#temporaryDir)
    await new Promise<void>((resolve) => this.#agent.listen(0, '127.0.0.1', resolve))
    const address = this.#agent.address()
    this.#service = new InterpreterService({
      host: '127.0.0.1',
      port: 0,
      jupyterSocket: this.socketPath,
      connectionDir: join(this.home, '.local/share/jupyter/runtime'),
      agentPort: typeof address === 'object' && address ? address.port : 0,
      generationFile: this.generationFile,
      defaultCwd: this.home,
      preload: ['python', 'javascript'],
      keepaliveMs: 500,
    })
    this.startJupyter()
    this.port = await this.#service.listen()
    await this.becomesHealthy()
  }

  get socketPath(): string {
    return join(this.directory, 'jupyter.sock')
  }

  get #temporaryDir(): string {
    return join(this.directory, 'tmp')
  }

  get #jupyterPath(): string {
    return join(this.directory, 'jupyter')
  }

  get generationFile(): string {
    return join(this.directory, 'generation')
  }

  startJupyter(): void {
    const config = join(this.directory, 'config.py')
    const settings = [
      `exec(open(${JSON.stringify(join(TEMPLATE_FILES, 'jupyter_server_config.py'))}).read())`,
      `c.ServerApp.sock = ${JSON.stringify(this.socketPath)}`,
      `c.ServerApp.root_dir = ${JSON.stringify(this.home)}`,
    ]
    writeFileSync(config, `${settings.join('\n')}\n`)
    const ipython = join(this.directory, 'ipython')
    mkdirSync(join(ipython, 'profile_default'), { recursive: true })
    const kernelConfig = readFileSync(join(TEMPLATE_FILES, 'ipython_kernel_config.py'))
    writeFileSync(join(ipython, 'profile_default/ipython_kernel_config.py'), kernelConfig)
    this.#installKernels()
    this.#jupyter = spawn(this.#python, ['-s', '-m', 'jupyter_server', `--config=${config}`], {
      cwd: this.home,
      stdio: 'ignore',
      env: {
        PATH: process.env.PATH ?? '',
        HOME: this.home,
        TMPDIR: this.#temporaryDir,
        IPYTHONDIR: ipython,
        JUPYTER_PATH: this.#jupyterPath,
        PYTHONPATH: join(REPOSITORY, 'python/e2b_charts'),
        PYTHONDONTWRITEBYTECODE: '1',
      },
    })
  }

  /** The template's kernels that need no more than this test's Node and Python. */
  #installKernels(): void {
    for (const name of ['javascript', 'typescript', 'bash']) {
      const spec = readFileSync(join(TEMPLATE_FILES, `kernels/${name}/kernel.json`), 'utf8')
        .replace('/usr/local/bin/node', process.execPath)
        .replace('/.e2b/javascript-kernel.mjs', join(REPOSITORY, 'kernels/javascript/src/main.ts'))
        .replace('/usr/bin/python3', this.#python)
        .replace('/opt/e2b/start_bash_kernel.py', join(TEMPLATE_FILES, 'start_bash_kernel.py'))
      const target = join(this.#jupyterPath, 'kernels', name)
      mkdirSync(target, { recursive: true })
      writeFileSync(join(target, 'kernel.json'), spec)
    }
  }

  /** Makes a kernel of the given Python code, which finds its connection file in `sys.argv[1]`. */
  installKernel(name: string, script: string): void {
    const target = join(this.#jupyterPath, 'kernels', name)
    mkdirSync(target, { recursive: true })
    writeFileSync(join(target, 'kernel.py'), script)
    const argv = [this.#python, join(target, 'kernel.py'), '{connection_file}']
    writeFileSync(join(target, 'kernel.json'), JSON.stringify({ argv, display_name: name, language: name }))
  }

  get jupyterPid(): number {
    return this.#jupyter?.pid ?? 0
  }

  killJupyter(): void {
    this.#jupyter?.kill('SIGKILL')
  }

  async becomesHealthy(timeoutMs = 40_000): Promise<void> {
    const end = Date.now() + timeoutMs
    while (Date.now() < end) {
      const answer = await fetch(this.url('/health')).catch(() => undefined)
      if (answer?.status === 200) return
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    throw new Error('the interpreter did not become healthy')
  }

  url(path: string): string {
    return `http://127.0.0.1:${this.port}${path}`
  }

  post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
    return fetch(this.url(path), {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-access-token': this.token },
      body: JSON.stringify(body),
      ...(signal === undefined ? {} : { signal }),
    })
  }

  /** All lines of an execution's answer. */
  async execute(code: string, fields: Record<string, unknown> = {}): Promise<Line[]> {
    const answer = await this.post('/execute', { code, ...fields })
    const text = await answer.text()
    if (answer.status !== 200) throw new Error(`${answer.status} ${text}`)
    return text.trimEnd().split('\n').map(parseLine)
  }

  async stop(): Promise<void> {
    this.#service?.close()
    this.#agent.close()
    const jupyter = this.#jupyter
    if (jupyter?.kill('SIGTERM')) await once(jupyter, 'exit')
    rmSync(this.directory, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** The sandbox of a file of tests: there before its first test, gone after its last. */
export function sandboxOfTests(): TestingSandbox {
  const sandbox = new TestingSandbox()
  beforeAll(() => sandbox.start(), 300_000)
  afterAll(() => sandbox.stop())
  return sandbox
}

/** The first line of a type. */
export function lineOf(lines: Line[], type: string): Line | undefined {
  return lines.find((line) => line.type === type)
}

/** All that was printed to a stream: what one statement prints may come in pieces. */
export function printedTo(stream: 'stdout' | 'stderr', lines: Line[]): string {
  return lines.map((line) => (line.type === stream ? String(line.text) : '')).join('')
}

/** Memory that a process has touched, in MiB; 0 when there is no such process. */
export function residentMib(pid: number | 'self'): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8')
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) / 1024
  } catch {
    return 0
  }
}

export function parseLine(line: string): Line {
  return JSON.parse(line)
}
