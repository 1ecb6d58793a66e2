/**
 * `npm run test:microvm`: our host role in an emulated machine with cgroup v2, Debian's kernel and a working
 * `/dev/kvm`, through the life of sandboxes and a reboot of the machine. Ends with `N passed, N failed`.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildMountInto, buildOpenReadOnly } from '../../packages/host/native/build.ts'
import { type Config, loadConfig } from '../../packages/server/src/config.ts'
import { ensureGuestImage } from '../../packages/server/src/engines/guest-image.ts'
import { microvmDir } from '../../packages/server/src/engines/microvm.ts'
import { installPackages } from '../../packages/server/src/setup/packages.ts'
import { ensureRunsc } from '../engines/runsc-for-tests.ts'
import { ensureEmulator } from './emulator.ts'
import { type Report, runEngine } from './engine-run.ts'
import { ensureFirecracker } from './firecracker-binaries.ts'
import { partsOf } from './inside/cases.ts'
import { type EnginePrograms, type MachineDisks, makeMachineDisks } from './machine-disks.ts'
import { ensureMachineImage } from './machine-image.ts'
import { type PartResult, partsTable, sum } from './parts-table.ts'

/** As they are run; the monitor is of the engine `microvm`. */
const ENGINES = ['container', 'gvisor', 'microvm']
const MONITORS = ['firecracker', 'qemu']
const SHORT = { engine: 'microvm', monitor: 'firecracker' }
const PARTS = [
  ...new Set(ENGINES.flatMap((engine) => MONITORS.flatMap((monitor) => partsOf(engine, monitor)))),
]
/** Debian packages that the machine is made with. */
const PACKAGES = ['mmdebstrap', 'busybox-static', 'cpio', 'lz4', 'xz-utils', 'python3-pip']
/** In the machine: what a monitor is, where it is not brought along. */
const MONITOR_PACKAGES: Record<string, string[]> = { qemu: ['qemu-system-x86'] }

const USAGE = `npm run test:microvm -- [--engine ${ENGINES.join('|')}]… [--monitor ${MONITORS.join('|')}]…
  [--part ${PARTS.join('|')}]… [--only NAME]… [--short] [--memory-mib N] [--verbose] [--json]

Boots an emulated machine (QEMU, no KVM needed) for each engine, and puts the engine through its parts: all engines
without --engine; the parts of --part in the order given, else all. The machine is kept when its host has opened, and
every part goes on from there, also after another one has failed. It is about fifteen times slower than this machine, so
the times say nothing about the product. --short runs what is essential of Firecracker in one go, --only the cases of
these names. --verbose shows the machine's console, --json prints one line a report and at the end the results of
engines and parts.
Exit status: 0 all passed, 1 something failed, 2 wrong usage.
`

interface Target {
  engine: string
  monitor: string
}

function readArguments() {
  const { values } = parseArgs({
    options: {
      engine: { type: 'string', multiple: true, default: [] },
      monitor: { type: 'string', multiple: true, default: [] },
      only: { type: 'string', multiple: true, default: [] },
      part: { type: 'string', multiple: true, default: [] },
      'memory-mib': { type: 'string', default: '4096' },
      short: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      verbose: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const check = (what: string, given: readonly string[], known: readonly string[]): void => {
    for (const name of given)
      if (!known.includes(name)) throw new Error(`there is no ${what} '${name}', but ${known.join(', ')}`)
  }
  check('engine', values.engine, ENGINES)
  check('monitor', values.monitor, MONITORS)
  check('part', values.part, PARTS)
  return values
}

type Arguments = ReturnType<typeof readArguments>

/** Those that have any of the wanted parts. */
function targetsOf({ engine, monitor, part, short }: Arguments): Target[] {
  if (short) return [SHORT]
  const wanted = (given: readonly string[], all: readonly string[]): readonly string[] =>
    given.length > 0 ? given : all
  const targets = wanted(engine, ENGINES).flatMap((name) =>
    name === 'microvm'
      ? wanted(monitor, MONITORS).map((each) => ({ engine: name, monitor: each }))
      : [{ engine: name, monitor: '' }],
  )
  const parts = new Set(wanted(part, PARTS))
  return targets.filter((target) => partsOf(target.engine, target.monitor).some((each) => parts.has(each)))
}

function show({ json }: Arguments, report: Report): void {
  if (json) return void process.stdout.write(`${JSON.stringify(report)}\n`)
  const { event, part, name, ms, error, text, ...facts } = report
  if (event === 'log') return void process.stdout.write(`${String(text)}\n`)
  if (!name) return
  const seconds = ((ms ?? 0) / 1000).toFixed(1)
  const more = Object.keys(facts).length > 0 ? ` ${JSON.stringify(facts)}` : ''
  process.stdout.write(
    `${event === 'passed' ? '✓' : '✗'} ${part ? `${part}: ` : ''}${name} (${seconds} s)${more}\n`,
  )
  if (error) process.stdout.write(`${String(error)}\n`)
}

const say = (line: string): void => void process.stderr.write(`${line}\n`)

async function runTarget(
  given: Arguments,
  { engine, monitor }: Target,
  config: Config,
  disks: MachineDisks,
  dir: string,
): Promise<PartResult[]> {
  const cacheDir = join(config.stateDir, 'cache')
  const emulator = await ensureEmulator(cacheDir, say)
  const image = await ensureMachineImage(cacheDir, MONITOR_PACKAGES[monitor] ?? [], say)
  return runEngine({
    ...{ engine, monitor, emulator, image, disks, dir, say },
    ...{ parts: given.part, only: given.only, isShort: given.short },
    memoryMib: Number(given['memory-mib']),
    onReport: (report) => show(given, report),
    onConsole: (line) => {
      if (given.verbose) process.stderr.write(`${line}\n`)
    },
  })
}

async function preparePrograms(config: Config): Promise<EnginePrograms> {
  await installPackages(say, join(config.stateDir, 'logs', 'emulated.log'), PACKAGES)
  const firecracker = await ensureFirecracker(join(config.stateDir, 'cache'), say)
  const runsc = await ensureRunsc(config, say)
  await ensureGuestImage(config, say)
  await buildMountInto({ outDir: microvmDir(config) })
  await buildOpenReadOnly({ outDir: microvmDir(config) })
  return { firecracker, runscPath: runsc?.path }
}

async function main(): Promise<number> {
  let given: Arguments
  try {
    given = readArguments()
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}`)
    return 2
  }
  if (given.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const config = loadConfig()
  const programs = await preparePrograms(config)
  const dir = mkdtempSync(join(tmpdir(), 'e2b-emulated-'))
  process.once('exit', () => rmSync(dir, { recursive: true, force: true }))
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => process.exit(130))
  const results: PartResult[] = []
  const disks = await makeMachineDisks(config, programs, dir)
  for (const target of targetsOf(given)) {
    if (target.engine === 'gvisor' && !programs.runscPath)
      say(
        "There is neither runsc here nor Go to build it: gVisor is left out. 'npm run engine -- install gvisor'",
      )
    else results.push(...(await runTarget(given, target, config, disks, dir)))
  }
  const { passed, failed } = sum(results)
  if (given.json) process.stdout.write(`${JSON.stringify({ event: 'results', results })}\n`)
  else process.stdout.write(`\n${partsTable(results)}\n`)
  process.stdout.write(`\n${passed} passed, ${failed} failed\n`)
  return failed === 0 && passed > 0 ? 0 : 1
}

process.exit(await main())
