import { createHash } from 'node:crypto'
import { appendFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs'
import { release as kernelRelease } from 'node:os'
import { join } from 'node:path'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { newSandboxId } from '@sandbox/contract/ids'
import { writeDurably } from '@sandbox/host/linux/durable'
import { pino } from 'pino'
import { baseTemplate } from '../../../../templates/base/template.ts'
import { codeInterpreterTemplate } from '../../../../templates/code-interpreter/template.ts'
import type { TemplateDefinition } from '../../../../templates/dsl/template.ts'
import type { Config } from '../config.ts'
import { type HostRole, openHostRole } from '../host-role.ts'
import { AGENT_VERSION, requireRuntime } from '../runtime.ts'
import { type PublishedTemplate, publishedTemplatesPath, readPublishedTemplates } from '../tenancy.ts'
import { type BaseSource, ensureBaseRootfs, forgetBaseRecord, forgetBaseRootfs } from './base-rootfs.ts'

/** Builds run beside a server of this machine, so the host they use has names, addresses and ids of its own. */
const SETUP_HOST = {
  instance: 'e2bset',
  addressRange: '10.10.0.0/16',
  uidBase: 0x5f000000,
  poolMax: 0,
  slotsReady: 1,
  maxSandboxes: 4,
  uppersGib: 16,
} as const

/** A template with the snapshot it will be. */
export interface PlannedTemplate {
  definition: TemplateDefinition
  /** Derived from everything that went in: the same plan is the same snapshot. */
  snapshotId: string
  from: { case: 'fromDirectory' | 'fromSnapshotId'; value: string }
}

const digest = (...parts: string[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32)

function plan(base: BaseSource): PlannedTemplate[] {
  const baseDefinition = baseTemplate(base.hasPrivateCa)
  const interpreterDefinition = codeInterpreterTemplate()
  const baseId = digest(base.key, JSON.stringify(baseDefinition), AGENT_VERSION)
  return [
    {
      definition: baseDefinition,
      snapshotId: baseId,
      from: { case: 'fromDirectory', value: base.directory },
    },
    {
      definition: interpreterDefinition,
      snapshotId: digest(baseId, JSON.stringify(interpreterDefinition)),
      from: { case: 'fromSnapshotId', value: baseId },
    },
  ]
}

const isBuilt = (config: Config, planned: PlannedTemplate): boolean =>
  existsSync(join(config.imagesDir, 'snapshots', planned.snapshotId, 'manifest.json'))

/** Builds one template's snapshot, or finds that it is there. @throws Error of the step that failed */
export async function buildTemplate(
  host: HostRole,
  planned: PlannedTemplate,
  config: Config,
  onLine: (line: string) => void,
): Promise<PublishedTemplate> {
  const { definition, snapshotId, from } = planned
  const resources = {
    cpuCount: definition.cpuCount,
    memoryMib: definition.memoryMib,
    diskMib: config.diskMib,
  }
  const request = {
    buildId: snapshotId,
    from,
    steps: definition.steps,
    startCmd: definition.startCmd ?? '',
    readyCmd: definition.readyCmd ?? '',
    resources: { ...resources, pids: 0 },
    isolation: definition.isolation ?? '',
  }
  for await (const { event } of host.client.build(request)) {
    if (event.case === 'log') onLine(`${definition.name} [${event.value.step}] ${event.value.message}`)
    if (event.case === 'result') {
      return { name: definition.name, snapshotId, envdVersion: event.value.envdVersion, resources }
    }
  }
  throw new Error(`the build of ${definition.name} ended without a result`)
}

/** A first start captures the memory for this class of host where that is missing. */
export async function warm(host: HostRole, template: PublishedTemplate): Promise<void> {
  const sandboxId = newSandboxId()
  await host.client.start({
    sandboxId,
    snapshotId: template.snapshotId,
    config: { envVars: {}, metadata: {}, allowInternetAccess: true, templateId: template.name },
    endAt: timestampFromMs(Date.now() + 600_000),
    skipPool: true,
  })
  await host.client.stop({ sandboxId })
}

interface Published {
  templates: PublishedTemplate[]
  /** What memory was captured for: agent, CRIU and kernel. */
  warmFor: string
}

/**
 * Builds the platform's templates and captures their memory, unless that is done.
 * @returns what happened, for the operator
 */
export async function buildTemplates(
  config: Config,
  base: BaseSource,
  logPath: string,
  say: (line: string) => void,
): Promise<string> {
  const runtime = requireRuntime(config)
  let source = base
  let planned = plan(source)
  const warmFor = digest(runtime.agentLayer.digest, runtime.criu?.version ?? 'none', kernelRelease())
  const warmPath = join(config.imagesDir, 'templates-warm-for')
  const published = readPublishedTemplates(config)
  const isCurrent = planned.every((each) =>
    published.some(({ snapshotId }) => snapshotId === each.snapshotId),
  )
  if (isCurrent && planned.every((each) => isBuilt(config, each)) && readText(warmPath) === warmFor) {
    return 'unchanged'
  }
  if (!isBuilt(config, planned[0]!) && !existsSync(source.directory)) {
    forgetBaseRecord(source)
    source = await ensureBaseRootfs(config, say)
    planned = plan(source)
  }
  const onLine = (line: string): void => {
    appendFileSync(logPath, `${new Date().toISOString()} ${line}\n`)
    say(line)
  }
  const setupConfig = {
    ...config,
    ...SETUP_HOST,
    stateDir: join(config.stateDir, 'setup'),
    runDir: `${config.runDir}-setup`,
  }
  mkdirSync(setupConfig.stateDir, { recursive: true })
  const log = pino({ level: 'info', base: null }, pino.destination({ dest: `${logPath}.host`, sync: true }))
  const host = await openHostRole(setupConfig, log)
  const release = closeOnInterrupt(host)
  try {
    const templates: PublishedTemplate[] = []
    for (const each of planned) templates.push(await buildTemplate(host, each, config, onLine))
    for (const template of templates) await warm(host, template)
    await publish(config, { templates, warmFor }, warmPath)
    forgetBaseRootfs(source)
  } finally {
    release()
    await host.host.close({ keepSandboxes: false })
  }
  return 'built'
}

/** An interrupted build leaves nothing in the kernel; what was finished is found again by the next one. */
function closeOnInterrupt(host: HostRole): () => void {
  const close = (): void => {
    process.stderr.write('Interrupted: removing the build sandbox …\n')
    host.host.close({ keepSandboxes: false }).finally(() => process.exit(130))
  }
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const
  for (const signal of signals) process.once(signal, close)
  return () => {
    for (const signal of signals) process.removeListener(signal, close)
  }
}

const readText = (path: string): string | undefined =>
  existsSync(path) ? readFileSync(path, 'utf8') : undefined

async function publish(config: Config, { templates, warmFor }: Published, warmPath: string): Promise<void> {
  await writeDurably(publishedTemplatesPath(config), `${JSON.stringify(templates, null, 2)}\n`)
  await writeDurably(warmPath, warmFor)
}
