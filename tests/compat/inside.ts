/**
 * The part of a run that lives in namespaces of its own, with the plan as JSON in the first argument: an internet, a
 * server, and one suite against it. Writes `results.json` into the log folder.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createWriteStream, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createTestServer } from '../system/harness/server.ts'
import { ensureCertificates, installEdgeIdentity } from './certificates.ts'
import { openInternet } from './internet.ts'
import { DOMAIN, RESOLVER, type RunPlan } from './plan.ts'
import { readResults, suiteCommand } from './suites.ts'

/** Groups of the kernel and ids are the machine's: not the names that other tests use. */
const INSTANCE = `cm${process.pid.toString(36).slice(-4)}`
const UID_BASE = 0x5a000000
const SERVER_INDEX = 9
const MAX_SUITE_MS = 60 * 60_000

const plan = JSON.parse(process.argv[2] ?? '{}') as RunPlan
const certificates = await ensureCertificates(plan.workDir)
const trusted = join(plan.logDir, 'trusted.pem')
const bundle = readFileSync(join(plan.workDir, 'tls/bundle.pem'), 'utf8')
writeFileSync(trusted, `${bundle}\n${certificates.internetCa}`)

const internet = await openInternet(certificates)
const server = createTestServer(SERVER_INDEX, {
  E2B_INSTANCE: INSTANCE,
  E2B_RUN_DIR: `/run/e2b-${INSTANCE}`,
  E2B_UID_BASE: String(UID_BASE),
  E2B_IMAGES_DIR: join(plan.workDir, 'images'),
  E2B_DOMAIN: DOMAIN,
  E2B_HTTPS_PORT: '443',
  E2B_BIND: '0.0.0.0',
  E2B_DNS_UPSTREAMS: RESOLVER,
  NODE_EXTRA_CA_CERTS: trusted,
})
installEdgeIdentity(plan.workDir, server.config.stateDir)
try {
  await server.start()
  await runSuite()
} finally {
  writeFileSync(join(plan.logDir, 'server.log'), server.output())
  await server.dispose()
  await internet.close()
}
process.exit(0)

async function runSuite(): Promise<void> {
  const report = join(plan.logDir, 'report')
  const [program, ...args] = suiteCommand(plan, report) as [string, ...string[]]
  const child = spawn(program, args, {
    cwd: plan.suiteDir,
    env: suiteEnvironment(),
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: MAX_SUITE_MS,
  })
  const log = createWriteStream(join(plan.logDir, 'suite.log'))
  child.stdout.pipe(log, { end: false })
  child.stderr.pipe(log, { end: false })
  await once(child, 'close')
  log.end()
  writeFileSync(join(plan.logDir, 'results.json'), JSON.stringify(readResults(plan, report)))
}

/** Only what the suites' documentation names; settings of this shell must not steer them. */
function suiteEnvironment(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('E2B_'))
  return { ...Object.fromEntries(kept), ...server.clientEnv }
}
