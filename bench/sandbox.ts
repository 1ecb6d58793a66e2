import { join } from 'node:path'
import { ENVD_PORT } from '@sandbox/contract/ports'
import type { JournalEntry } from '@sandbox/host/cells/journal'
import { type AliveMemory, type AliveReport, measureAlive, measurePooled } from './alive.ts'
import { type BenchServer, openBenchServer } from './bench-server.ts'
import { measureEcho, measureExec, measureWatch } from './interaction.ts'
import { availableMb, residentMb } from './memory.ts'
import { isInstalled, type Nginx, startNginx } from './nginx.ts'
import { agentHostOf, createOfficial, trustCertificatesOf } from './official-client.ts'
import { measurePauses } from './pauses.ts'
import { step } from './progress.ts'
import { describeLoad, untilQuiet } from './quiet.ts'
import { describeMachine, table } from './report.ts'
import { type Comparison, comparisonTable } from './side-by-side.ts'
import { TEMPLATE } from './template.ts'
import { measureTransfers } from './transfers.ts'

/** Everything that one run of `bench sandbox` has measured. */
export interface SandboxResults {
  /** As it was when the run began, with the load at its end. */
  readonly machine: string
  readonly transfers: readonly Comparison[]
  readonly interaction: readonly Comparison[]
  readonly pauses: readonly Comparison[]
  readonly alive: AliveReport
  /** Waiting in a pool, started ahead and frozen. */
  readonly pooled: AliveMemory
  readonly hasNginx: boolean
}

const ALIVE = 100
const POOLED = 20

/** Measures what is done inside and to one sandbox, against the bare tools of the machine. About three minutes. */
export async function benchSandbox(): Promise<{ markdown: string; results: SandboxResults }> {
  for (const program of ['inotifywait', 'script']) {
    if (!isInstalled(program)) throw new Error(`'${program}' is missing: apt install inotify-tools bsdutils`)
  }
  const machine = describeMachine()
  const bench = await openBenchServer(0, 0)
  try {
    trustCertificatesOf(bench)
    const inside = await measureInside(bench)
    await untilQuiet()
    step('Pause and resume')
    const pauses = await measurePauses(bench)
    await untilQuiet()
    step(`Memory with ${ALIVE} alive`)
    const alive = await measureAlive(bench, ALIVE)
    step(`Memory with ${POOLED} in a pool`)
    const pooled = await measurePool()
    const results = { machine: `${machine}; ${describeLoad()}`, ...inside, pauses, alive, pooled }
    return { markdown: sandboxReport(results), results }
  } finally {
    await bench.close()
  }
}

async function measurePool(): Promise<AliveMemory> {
  const beforeMb = availableMb()
  const bench = await openBenchServer(1, POOLED)
  try {
    // The first start of a template fills its pool.
    await bench.client.kill(await bench.client.create(TEMPLATE))
    await bench.poolFilled(POOLED)
    return measurePooled(bench, beforeMb - residentMb(bench.server.pid()))
  } finally {
    await bench.close()
  }
}

async function measureInside(
  bench: BenchServer,
): Promise<Pick<SandboxResults, 'transfers' | 'interaction' | 'hasNginx'>> {
  const { sandbox, accessToken } = await createOfficial(bench)
  const entry = bench.entries().find(({ sandboxId }) => sandboxId === sandbox.sandboxId)
  if (entry?.initPid === undefined) throw new Error(`sandbox ${sandbox.sandboxId} is in no slot`)
  await untilQuiet()
  step('Exec, PTY, watch')
  const interaction = [
    await measureExec(sandbox),
    await measureEcho(sandbox),
    await measureWatch(sandbox, `/proc/${entry.initPid}/root`),
  ]
  const hasNginx = isInstalled('nginx')
  await untilQuiet()
  step(`Transfers${hasNginx ? '' : ", without nginx: 'apt install nginx-light' for a comparison"}`)
  const nginx = hasNginx ? await openNginx(bench, entry) : undefined
  try {
    const { proxyPort, httpsPort } = bench.server.config
    const transfers = await measureTransfers({
      ...{ sandbox, accessToken, nginx, proxyPort, httpsPort },
      agentAddress: entry.slot.address,
      agentHost: agentHostOf(bench, sandbox.sandboxId),
    })
    return { interaction, transfers, hasNginx }
  } finally {
    await nginx?.close()
    await sandbox.kill()
  }
}

function openNginx({ server }: BenchServer, { slot }: JournalEntry): Promise<Nginx> {
  const tlsDir = join(server.config.stateDir, 'tls')
  const certificate = { cert: join(tlsDir, 'server.pem'), key: join(tlsDir, 'server.key') }
  return startNginx(`${slot.address}:${ENVD_PORT}`, certificate)
}

function sandboxReport(results: SandboxResults): string {
  const { alive, pooled, machine, interaction, transfers, pauses } = results
  const row = (name: string, { rssMb, ussMb, pssMb, machineMb }: AliveMemory): string[] => [
    name,
    ...[rssMb, ussMb, pssMb, machineMb].map((value) => value.toFixed(1)),
    `${(pssMb / rssMb).toFixed(2)}×`,
  ]
  return [
    `Machine: ${machine}.`,
    comparisonTable(interaction),
    comparisonTable(transfers),
    comparisonTable(pauses),
    table(
      [
        'Per sandbox',
        '**if nothing was shared** MB',
        'USS MB',
        'PSS MB',
        'of the machine MB',
        'of the baseline',
      ],
      [
        row(`${alive.count} alive: idle`, alive.started),
        row(`${alive.count} alive: after \`1+1\``, alive.used),
        row(`${POOLED} waiting in a pool`, pooled),
      ],
    ),
  ].join('\n\n')
}
