/**
 * `npm run test:microvm`: our host role in an emulated machine with cgroup v2, Debian's kernel and a working
 * `/dev/kvm`, through the life of sandboxes and a reboot of the machine. Ends with `N passed, N failed`.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { buildMountInto, buildOpenReadOnly } from '../../packages/host/native/build.ts'
import { loadConfig } from '../../packages/server/src/config.ts'
import { ensureGuestImage } from '../../packages/server/src/engines/install-qemu.ts'
import { microvmDir } from '../../packages/server/src/engines/microvm.ts'
import { installPackages } from '../../packages/server/src/setup/packages.ts'
import { ensureFirecracker } from './firecracker-binaries.ts'
import { runMachine } from './machine.ts'
import { type MachineDisks, makeMachineDisks } from './machine-disks.ts'
import { ensureMachineImage, type MachineImage } from './machine-image.ts'

const USAGE = `npm run test:microvm -- [--engine container|gvisor|microvm] [--monitor firecracker|qemu] [--short] [--part NAME]… [--only NAME]… [--memory-mib N] [--json]

Boots an emulated machine (QEMU, no KVM needed) and puts the engine through create, clones, pause, resume, fork,
limits, adoption and a reboot. Takes minutes: it is about fifteen times slower than this machine, so the times it
prints say nothing about the product. --short boots it once, for what is essential. --verbose shows the machine's console, --json one line a report.
Exit status: 0 all passed, 1 something failed, 2 wrong usage.
`
/** Debian packages that the machine is made and run with, besides those of the set-up. */
const PACKAGES = ['qemu-system-x86', 'busybox-static', 'cpio', 'lz4', 'xz-utils', 'python3-pip']
/** In the machine: what a monitor is, where it is not brought along. */
const MONITOR_PACKAGES: Record<string, string[]> = { qemu: ['qemu-system-x86'] }
const BOOTS = [0, 1]
/** The one that goes on after the second boot. */
const REBOOTED_PART = 'life'
/** As a shell says it. */
const SEGMENTATION_FAULT = 139
const LIMIT_MS = 40 * 60_000
const SHORT_LIMIT_MS = 10 * 60_000

interface Report {
  event: string
  name?: string
  ms?: number
  [fact: string]: unknown
}

const { values } = parseArgs({
  options: {
    engine: { type: 'string', default: 'microvm' },
    monitor: { type: 'string', default: 'firecracker' },
    only: { type: 'string', multiple: true, default: [] },
    part: { type: 'string', multiple: true, default: [] },
    'memory-mib': { type: 'string', default: '4096' },
    short: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    verbose: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
})

function show(report: Report): void {
  if (values.json) return void process.stdout.write(`${JSON.stringify(report)}\n`)
  const { event, name, ms, error, text, ...facts } = report
  if (event === 'log') return void process.stdout.write(`${String(text)}\n`)
  if (!name) return
  const seconds = ((ms ?? 0) / 1000).toFixed(1)
  const more = Object.keys(facts).length > 0 ? ` ${JSON.stringify(facts)}` : ''
  process.stdout.write(`${event === 'passed' ? '✓' : '✗'} ${name} (${seconds} s)${more}\n`)
  if (error) process.stdout.write(`${String(error)}\n`)
}

/** Boots it, and a second time when the program inside crashed as it started, which emulation makes it do now and then. */
async function boot(
  number: number,
  image: MachineImage,
  disks: MachineDisks,
  say: (line: string) => void,
): Promise<Report[]> {
  try {
    return await bootOnce(number, image, disks)
  } catch (error) {
    if (!(error instanceof CrashedAtStart)) throw error
    say(`${error.message}\nOnce more`)
    return bootOnce(number, image, disks)
  }
}

class CrashedAtStart extends Error {}

async function bootOnce(boot: number, image: MachineImage, disks: MachineDisks): Promise<Report[]> {
  const reports: Report[] = []
  let tail = ''
  const { engine, monitor } = values
  const options = { engine, monitor, boot, only: values.only, parts: values.part, isShort: values.short }
  await runMachine({
    image,
    disks,
    memoryMib: Number(values['memory-mib']),
    options,
    limitMs: values.short ? SHORT_LIMIT_MS : LIMIT_MS,
    onConsole: (line) => {
      tail = `${tail}${line}\n`.slice(-4_000)
      if (values.verbose) process.stderr.write(`${line}\n`)
    },
    onReport: (report) => {
      reports.push(report as Report)
      show(report as Report)
    },
  })
  const end = reports.find(({ event }) => event === 'exit')
  if (end?.status === SEGMENTATION_FAULT && reports.length === 1)
    throw new CrashedAtStart(`the program inside crashed before it began:\n${tail}`)
  if (!end || (end.status !== 0 && !reports.some(({ event }) => event === 'failed')))
    throw new Error(`the tests did not come to an end:\n${tail}`)
  return reports
}

async function main(): Promise<number> {
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const say = (line: string): void => void process.stderr.write(`${line}\n`)
  const config = loadConfig()
  await installPackages(say, join(config.stateDir, 'logs', 'emulated.log'), PACKAGES)
  const image = await ensureMachineImage(
    join(config.stateDir, 'cache'),
    MONITOR_PACKAGES[values.monitor] ?? [],
    say,
  )
  const binaries = await ensureFirecracker(join(config.stateDir, 'cache'), say)
  await ensureGuestImage(config, say)
  await buildMountInto({ outDir: microvmDir(config) })
  await buildOpenReadOnly({ outDir: microvmDir(config) })
  const dir = mkdtempSync(join(tmpdir(), 'e2b-emulated-'))
  const reports: Report[] = []
  try {
    const disks = await makeMachineDisks(config, binaries, dir)
    const isWhole = !values.short && (values.part.length === 0 || values.part.includes(REBOOTED_PART))
    for (const number of isWhole ? BOOTS : BOOTS.slice(0, 1)) {
      say(number === 0 ? 'Booting the emulated machine' : 'Booting it once more')
      reports.push(...(await boot(number, image, disks, say)))
      if (reports.some(({ event }) => event === 'failed')) break
    }
    say(`The state disk took ${Math.round((statSync(disks.statePath).blocks * 512) / 2 ** 20)} MiB`)
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
  const count = (event: string): number => reports.filter((report) => report.event === event).length
  process.stdout.write(`\n${count('passed')} passed, ${count('failed')} failed\n`)
  return count('failed') === 0 && count('passed') > 0 ? 0 : 1
}

process.exit(await main())
