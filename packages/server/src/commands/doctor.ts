import type { Config } from '../config.ts'
import { isForTests } from '../engines/for-tests.ts'
import { checkGuestKernel } from '../engines/guest-kernel.ts'
import { probeEngines } from '../engines/installed.ts'
import { installCommand, installers } from '../engines/installers.ts'
import { firstFailure } from '../first-failure.ts'
import { readRuntime } from '../runtime.ts'
import { checkMicrovmRequirements } from '../setup/microvm-requirements.ts'
import { missingPackages } from '../setup/packages.ts'
import { checkRequirements, type Requirement } from '../setup/requirements.ts'
import { readPublishedTemplates } from '../tenancy.ts'

interface Finding extends Requirement {
  kind: 'machine' | 'installed' | 'engine'
}

function installedFindings(config: Config): Finding[] {
  const missing = missingPackages()
  const runtime = readRuntime(config)
  const templates = readPublishedTemplates(config).map((template) => template.name)
  const quickstart = "Run 'npm run quickstart'."
  return [
    {
      kind: 'installed',
      name: 'Debian packages',
      ok: missing.length === 0,
      required: true,
      detail: missing.length === 0 ? 'all present' : `missing: ${missing.join(', ')}`,
      remedy: quickstart,
    },
    {
      kind: 'installed',
      name: 'CRIU',
      ok: runtime?.criu?.kind === 'cow',
      required: false,
      detail: runtime?.criu
        ? `${runtime.criu.version} (${criuWay(runtime.criu.kind)})`
        : 'none: every start boots',
      remedy: runtime?.criu?.reason ?? quickstart,
    },
    {
      kind: 'installed',
      name: 'templates',
      ok: templates.length > 0,
      required: true,
      detail: templates.length > 0 ? templates.join(', ') : 'none built',
      remedy: quickstart,
    },
  ]
}

const NAME_WIDTH = 32
const SERVING = 'engine of sandboxes'

const criuWay = (kind: 'cow' | 'stock'): string =>
  kind === 'cow' ? 'memory is mapped copy-on-write' : 'memory is copied at each start'

/** Empty before the set-up ran, and for others than root: they cannot boot anything. */
async function engineFindings(config: Config): Promise<Finding[]> {
  const runtime = readRuntime(config)
  if (!runtime || process.getuid?.() !== 0) return []
  let reports: EngineReports
  try {
    reports = await probeEngines(config, runtime)
  } catch (error) {
    return [untried(firstFailure(error).message)]
  }
  const found = reports.map(
    ({ name, report }): Finding => ({
      kind: 'engine',
      name,
      ok: report.usable,
      required: false,
      detail: [report.version, report.detail].filter(Boolean).join(': '),
      remedy: report.remedy,
    }),
  )
  found.unshift(servingEngine(config.isolation, reports))
  const guestKernel = await checkGuestKernel(config)
  if (guestKernel) found.push({ ...guestKernel, kind: 'engine' })
  return [...found, ...(await notInstalled(config, new Set(reports.map(({ name }) => name))))]
}

type EngineReports = Awaited<ReturnType<typeof probeEngines>>

const untried = (reason: string): Finding => ({
  kind: 'engine',
  name: SERVING,
  ok: false,
  required: true,
  detail: `could not be tried: ${reason}`,
  remedy: 'Make room on the disk of the state directory, if that is why, and try again.',
})

/** The engine of sandboxes whose template asks for none. @param reports of those that are installed, strongest first */
export function servingEngine(isolation: Config['isolation'], reports: EngineReports): Finding {
  const wanted = reports.filter(({ name }) => isolation === 'auto' || name === isolation)
  const serving = wanted.find(({ report }) => report.usable)
  const remedies = wanted.map(({ report }) => report.remedy).filter(Boolean)
  return {
    kind: 'engine',
    name: SERVING,
    ok: serving !== undefined,
    required: true,
    detail: serving ? `${serving.name} (isolation: ${isolation})` : `none boots (isolation: ${isolation})`,
    remedy: remedies.join('; ') || `npm run engine -- list`,
  }
}

/** What could be had here for an engine that is not there yet. */
async function notInstalled(config: Config, engines: ReadonlySet<string>): Promise<Finding[]> {
  const findings: Finding[] = []
  for (const installer of installers) {
    const { name, engine, doc, installed } = installer
    const isThere = (await installed(config)) && !isForTests(config, name)
    if (engines.has(engine) || isThere) continue
    findings.push({
      kind: 'engine',
      name,
      ok: false,
      required: false,
      detail: `not installed; ${doc}`,
      remedy: installCommand(installer),
    })
  }
  return findings
}

/**
 * Prints each requirement and engine with its verdict and remedy.
 * @returns 0 when sandboxes can run, 1 otherwise
 */
export async function doctor(config: Config, json: boolean): Promise<number> {
  const requirements = [...checkRequirements(config.stateDir), ...checkMicrovmRequirements()]
  const machine = requirements.map((each): Finding => ({ ...each, kind: 'machine' }))
  const findings = [...machine, ...installedFindings(config), ...(await engineFindings(config))]
  const usable = findings.every((finding) => finding.ok || !finding.required)
  if (json) {
    process.stdout.write(`${JSON.stringify({ usable, findings }, null, 2)}\n`)
    return usable ? 0 : 1
  }
  for (const finding of findings) {
    const mark = finding.ok ? 'ok  ' : finding.required ? 'FAIL' : 'note'
    process.stdout.write(`${mark} ${finding.name.padEnd(NAME_WIDTH)} ${finding.detail}\n`)
    if (!finding.ok && finding.remedy) process.stdout.write(`     → ${finding.remedy}\n`)
  }
  process.stdout.write(usable ? 'Sandboxes can run on this machine.\n' : 'Sandboxes cannot run here yet.\n')
  return usable ? 0 : 1
}
