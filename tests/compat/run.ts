/**
 * Runs one of the official suites, unmodified, against a server of its own and prints what came of it. The suites
 * are checked out and their dependencies installed by whoever runs this; see ../README.md.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { readArguments, wholeNumber, wrongUse } from '../command-line.ts'
import { ensureCertificates } from './certificates.ts'
import { RESOLVER, type RunPlan } from './plan.ts'
import { type CaseResult, SUITES, type SuiteName } from './suites.ts'
import { ensureTemplates } from './templates.ts'

interface Options {
  suiteDir: string
  list?: string | undefined
  only?: string | undefined
  skip?: string | undefined
  python: string
  workers: number
  workDir: string
  json: boolean
}

/** The cases to run: of the list, or all of the suite where there is neither list nor pattern. */
function chosenCases({ list, only, skip }: Options): string[] | undefined {
  if (!list) {
    if (only || skip) throw new Error('--only and --skip choose from a list: give one with --list')
    return undefined
  }
  return readFileSync(list, 'utf8')
    .split('\n')
    .filter(Boolean)
    .filter((name) => !only || new RegExp(only).test(name))
    .filter((name) => !skip || !new RegExp(skip).test(name))
}

/**
 * Network, mounts and /run of their own: the addresses of the internet are ours there, and whatever is left over goes
 * with the namespaces.
 */
async function runInside(plan: RunPlan): Promise<void> {
  const resolvConf = join(plan.logDir, 'resolv.conf')
  writeFileSync(resolvConf, `nameserver ${RESOLVER}\n`)
  const script = 'mount --bind "$1" /etc/resolv.conf && mount -t tmpfs tmpfs /run && shift && exec "$@"'
  const inside = [process.execPath, join(import.meta.dirname, 'inside.ts'), JSON.stringify(plan)]
  const child = spawn('unshare', ['--net', '--mount', 'sh', '-c', script, 'sh', resolvConf, ...inside], {
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => child.kill(signal))
  const [status] = (await once(child, 'exit')) as [number | null]
  if (status !== 0) throw new Error(`the run ended with status ${status}; logs are in ${plan.logDir}`)
}

function printTable(plan: RunPlan, results: readonly CaseResult[]): void {
  const failed = results.filter((result) => !result.passed)
  const row = [plan.suite, results.length, results.length - failed.length, failed.length]
  const widths = [12, 11, 7, 7]
  const line = (cells: readonly (string | number)[]): string =>
    cells.map((cell, column) => String(cell).padEnd(widths[column] ?? 0)).join('')
  console.log(line(['suite', 'live cases', 'passed', 'failed']))
  console.log(line(row))
  for (const { name, reason } of failed) console.log(`  ${name}: ${reason}`)
}

async function runSuite(suite: SuiteName, options: Options): Promise<void> {
  const say = (line: string): void => {
    if (!options.json) console.error(line.slice(0, 160))
  }
  const workDir = resolve(options.workDir)
  mkdirSync(workDir, { recursive: true, mode: 0o700 })
  const plan: RunPlan = {
    suite,
    suiteDir: resolve(options.suiteDir),
    cases: chosenCases(options),
    python: options.python,
    workers: options.workers,
    workDir,
    logDir: mkdtempSync(join(tmpdir(), `compat-${suite}-`)),
  }
  if (!existsSync(plan.suiteDir)) throw new Error(`there is no ${plan.suiteDir}`)
  await ensureTemplates(workDir, await ensureCertificates(workDir), say)
  await runInside(plan)
  const results = JSON.parse(readFileSync(join(plan.logDir, 'results.json'), 'utf8')) as CaseResult[]
  if (options.json) console.log(JSON.stringify({ suite, results }, null, 2))
  else printTable(plan, results)
  say(`logs: ${plan.logDir}`)
  process.exitCode = results.some((result) => !result.passed) ? 1 : 0
}

const USAGE = `usage: run.ts <${SUITES.join('|')}> --suite-dir DIR [options]
  --suite-dir DIR  checkout of the package, with its dependencies installed
  --list FILE      cases that count, one a line; default all
  --only PATTERN   regular expression on the names of the list
  --skip PATTERN   regular expression of names to leave out
  --python PATH    interpreter with the dependencies of the Python suites [python3]
  --workers COUNT  test files at once [4]
  --work-dir DIR   keeps certificates and images between runs [/var/tmp/e2b-compat]
  --json           print the results as JSON
  --help           this text`

const text = { type: 'string' } as const

const { values, positionals } = readArguments(USAGE, {
  allowPositionals: true,
  options: {
    'suite-dir': text,
    list: text,
    only: text,
    skip: text,
    python: { ...text, default: 'python3' },
    workers: { ...text, default: '4' },
    'work-dir': { ...text, default: '/var/tmp/e2b-compat' },
    json: { type: 'boolean', default: false },
  },
})
const { 'suite-dir': suiteDir, 'work-dir': workDir, workers, ...options } = values
const suite = SUITES.find((name) => name === positionals[0])
if (!suite || positionals.length > 1) wrongUse(`Name one suite, not '${positionals.join(' ')}'`, USAGE)
if (!suiteDir) wrongUse('--suite-dir is missing', USAGE)
await runSuite(suite, { ...options, suiteDir, workDir, workers: wholeNumber(workers, 'workers', 1, USAGE) })
