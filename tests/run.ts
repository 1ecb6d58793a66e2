/**
 * `npm test`: sets up what is missing, then checks, unit tests, whole-system tests, those of the engines, the short run
 * of the emulated machine, Python tests.
 * Ends with the line `N passed, N failed`; a failed check or a suite that broke counts as one failure.
 */
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { type Config, loadConfig } from '../packages/server/src/config.ts'
import { installForTests } from '../packages/server/src/engines/for-tests.ts'
import { qemuInstaller } from '../packages/server/src/engines/install-qemu.ts'
import { installPackages } from '../packages/server/src/setup/packages.ts'
import { clientsVenv, installPythonClients } from '../packages/server/src/setup/python-clients.ts'
import type { VitestCount } from './count-reporter.ts'
import { ensureRunsc } from './engines/runsc-for-tests.ts'

const root = join(import.meta.dirname, '..')
const node = process.execPath
const scratch = mkdtempSync(join(tmpdir(), 'e2b-test-'))

/** What the Python tests of the chart extraction draw with, and what the examples ask models with. */
const PYTHON_TEST_PACKAGES = [
  'pytest',
  'numpy',
  'pandas',
  'matplotlib',
  'pillow',
  'ipython',
  'jupyter_client',
  'orjson',
  'openai',
  'anthropic',
]

/** Signs an apt repository of the tests' own. */
const PACKAGES = ['gpg', 'gpg-agent']

/** Failures are named once more at the end: nobody looks for them in an hour's output. */
type Count = VitestCount

interface RunOptions {
  cwd?: string
  environment?: NodeJS.ProcessEnv
}

function run(title: string, argv: readonly string[], options: RunOptions = {}): Promise<number> {
  const { cwd = root, environment } = options
  process.stdout.write(`\n── ${title}\n`)
  const began = Date.now()
  const [command, ...args] = argv as [string, ...string[]]
  const env = { ...process.env, ...environment }
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'inherit', 'inherit'] })
  return new Promise((resolve) => {
    const end = (code: number): void => {
      process.stdout.write(`── ${title}: ${code === 0 ? 'ok' : `failed (status ${code})`}, `)
      process.stdout.write(`${((Date.now() - began) / 1000).toFixed(0)} s\n`)
      resolve(code)
    }
    child.on('error', () => end(127))
    child.on('close', (code) => end(code ?? 1))
  })
}

function broken(title: string, passed = 0): Count {
  return { passed, failed: 1, failures: [title] }
}

/** A step that passes or fails as a whole. */
async function step(title: string, argv: readonly string[]): Promise<Count> {
  const code = await run(title, argv)
  return code === 0 ? { passed: 1, failed: 0, failures: [] } : broken(title)
}

async function vitest(project: string, environment: NodeJS.ProcessEnv = {}): Promise<Count> {
  const file = join(scratch, `${project}.json`)
  const argv = [
    ...[node, join(root, 'node_modules/vitest/vitest.mjs'), 'run', '--project', project],
    ...['--reporter=default', `--reporter=${join(root, 'tests/count-reporter.ts')}`],
  ]
  const title = `${project} tests`
  const code = await run(title, argv, { environment: { ...environment, COUNT_FILE: file } })
  let count: VitestCount
  try {
    count = JSON.parse(readFileSync(file, 'utf8')) as VitestCount
  } catch {
    return broken(title)
  }
  return code !== 0 && count.failed === 0 ? broken(`${title}, after their end`, count.passed) : count
}

async function pytest(python: string, folder: string): Promise<Count> {
  const report = join(scratch, `${folder.replaceAll('/', '-')}.xml`)
  const code = await run(
    `${folder} (pytest)`,
    [python, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', `--junitxml=${report}`],
    { cwd: join(root, folder) },
  )
  try {
    const suite = /<testsuite [^>]*>/.exec(readFileSync(report, 'utf8'))![0]
    const number = (name: string): number => Number(new RegExp(` ${name}="(\\d+)"`).exec(suite)?.[1] ?? 0)
    const failed = number('failures') + number('errors')
    const passed = number('tests') - failed - number('skipped')
    if (code !== 0 && failed === 0) return broken(folder, passed)
    return { passed, failed, failures: failed > 0 ? [`${folder} (pytest)`] : [] }
  } catch {
    return broken(folder)
  }
}

/** Where the tests find gVisor's runsc. Without one, and without Go, they skip gVisor and say so. */
async function withRunsc(config: Config): Promise<NodeJS.ProcessEnv> {
  const runsc = await ensureRunsc(config, (line) => process.stdout.write(`gvisor: ${line}\n`))
  return runsc?.isOwn ? { PATH: `${dirname(runsc.path)}${delimiter}${process.env.PATH}` } : {}
}

/** Firecracker under its jailer in the emulated machine, what is essential: a few minutes. */
async function emulated(): Promise<Count> {
  const title = 'Firecracker in the emulated machine'
  process.stdout.write(`\n── ${title}\n`)
  const argv = [join(root, 'tests/emulated/run.ts'), '--short']
  const child = spawn(node, argv, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] })
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => {
    process.stdout.write(chunk)
    said += chunk.toString()
  })
  const code = await new Promise<number>((resolve) => {
    child.on('error', () => resolve(127))
    child.on('close', (status) => resolve(status ?? 1))
  })
  const [passed = 0, failed = 0] = (/(\d+) passed, (\d+) failed\n$/.exec(said)?.slice(1) ?? []).map(Number)
  if (code === 0 && failed === 0 && passed > 0) return { passed, failed, failures: [] }
  process.stdout.write(
    `── ${title}: FAILED (status ${code}). Nothing else here runs Firecracker: see above\n`,
  )
  return { passed, failed: Math.max(failed, 1), failures: [title] }
}

if (process.argv.length > 2) {
  console.error(
    'npm test takes no options: it runs everything. For a part: npx vitest run --project unit [path]',
  )
  process.exit(2)
}
const counts: Count[] = []
const setup = await step('set-up', [node, join(root, 'packages/server/src/main.ts'), 'setup'])
counts.push(setup, await step('check', ['npm', 'run', '--silent', 'check']))
if (setup.failed === 0) {
  const config = loadConfig()
  await installPackages((line) => process.stdout.write(`${line}\n`), join(scratch, 'apt.log'), PACKAGES)
  await installForTests(qemuInstaller, config, (line) => process.stdout.write(`qemu: ${line}\n`))
  await installPythonClients(config, join(scratch, 'pip.log'), PYTHON_TEST_PACKAGES)
  const python = join(clientsVenv(config), 'bin', 'python')
  counts.push(
    await vitest('unit'),
    // Both wait much: side by side they keep two processors busy.
    ...(await Promise.all([vitest('system'), vitest('servers')])),
    await vitest('engines', await withRunsc(config)),
    await emulated(),
    await pytest(python, 'python/e2b_charts'),
  )
}
rmSync(scratch, { recursive: true, force: true })
const sum = (of: (count: Count) => number): number => counts.reduce((total, count) => total + of(count), 0)
const [passed, failed] = [sum((count) => count.passed), sum((count) => count.failed)]
for (const failure of counts.flatMap((count) => count.failures)) {
  process.stdout.write(`\nFAILED ${failure}`)
}
process.stdout.write(`\n${passed} passed, ${failed} failed\n`)
process.exit(failed === 0 ? 0 : 1)
