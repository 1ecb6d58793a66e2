import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Sandbox } from '@e2b/code-interpreter'
import type { EngineName } from '@sandbox/host/engines/engine'
import { inTurn, type Lane, type Measure } from './engine-lanes.ts'
import { agentHostOf, createOfficial, type OfficialSandbox } from './official-client.ts'
import { step } from './progress.ts'
import { untilQuiet } from './quiet.ts'
import type { Way } from './side-by-side.ts'
import { MIB as CARGO_MIB, edgeRoute, withCargo } from './transfers.ts'

/** What programs do inside a sandbox, and bytes in and out: the same on each engine. */

interface Worker extends Lane {
  readonly official: OfficialSandbox
}

const WRITTEN_MIB = 200
const WRITE = `dd if=/dev/zero of=/home/user/block bs=1M count=${WRITTEN_MIB} conv=fsync status=none`
const IMPORT = "python3 -c 'import pandas'"
/** The id of `user` inside. */
const USER = 1000
const COMMAND_WITHIN_MS = 120_000

/** @param rounds of the quickest work; a third, or a fifth, of what takes longer */
export async function measureWork(lanes: readonly Lane[], rounds: number): Promise<Measure[]> {
  const workers: Worker[] = []
  try {
    for (const lane of lanes) workers.push({ ...lane, official: await createOfficial(lane.bench) })
    await untilQuiet()
    step('Commands, imports, writes')
    const third = Math.ceil(rounds / 3)
    const exec = await measureCommand('Exec `true`', rounds, workers, 'true')
    const imports = await measureCommand('`import pandas` in a new process', third, workers, IMPORT)
    const writes = await measureCommand(`Write ${WRITTEN_MIB} MiB and fsync`, third, workers, WRITE)
    await untilQuiet()
    step(`${CARGO_MIB} MiB up and down`)
    const transfers = await measureTransfers(workers, Math.ceil(rounds / 5))
    return [exec, imports, { ...writes, mib: WRITTEN_MIB }, ...transfers]
  } finally {
    for (const { official } of workers) await official.sandbox.kill()
  }
}

function measureCommand(
  title: string,
  rounds: number,
  workers: readonly Worker[],
  command: string,
): Promise<Measure> {
  const ways = byEngine(workers, ({ official }) => runIn(official.sandbox, command))
  return inTurn(title, rounds, bareWay(workers, command), ways)
}

const runIn =
  (sandbox: Sandbox, command: string): Way =>
  () =>
    sandbox.commands.run(command, { timeoutMs: COMMAND_WITHIN_MS })

/** The same program and files as in the container, outside of it: without agent, edge, limits and filters. */
function bareWay(workers: readonly Worker[], command: string): Way | undefined {
  const container = workers.find(({ name }) => name === 'container')
  if (!container) return undefined
  const { sandboxId } = container.official.sandbox
  const entry = container.bench.entries().find((candidate) => candidate.sandboxId === sandboxId)
  if (entry?.initPid === undefined) throw new Error(`sandbox ${sandboxId} is in no slot`)
  const id = entry.slot.uidBase + USER
  const root = `/proc/${entry.initPid}/root`
  return async () => {
    const child = spawn('chroot', [`--userspec=${id}:${id}`, root, '/bin/bash', '-l', '-c', command], {
      env: { PATH: process.env.PATH, HOME: '/home/user' },
      stdio: ['ignore', 'ignore', 'inherit'],
    })
    const [code] = (await once(child, 'exit')) as [number | null]
    if (code !== 0) throw new Error(`'${command}' ended with status ${code}`)
  }
}

function measureTransfers(workers: readonly Worker[], rounds: number): Promise<Measure[]> {
  const routeOf = ({ bench, official: { sandbox, accessToken } }: Worker) =>
    edgeRoute(agentHostOf(bench, sandbox.sandboxId), bench.server.config.httpsPort, accessToken)
  return withCargo(async (cargo) => {
    const uploads = byEngine(workers, (worker) => () => cargo.upload(routeOf(worker)))
    const downloads = byEngine(workers, (worker) => () => cargo.download(routeOf(worker)))
    const up = await inTurn(`${CARGO_MIB} MiB up through the edge, TLS`, rounds, cargo.pipeIn, uploads)
    const down = await inTurn(`${CARGO_MIB} MiB down through the edge, TLS`, rounds, cargo.pipeOut, downloads)
    return [up, down].map((measure) => ({ ...measure, mib: CARGO_MIB }))
  })
}

const byEngine = (workers: readonly Worker[], wayOf: (worker: Worker) => Way): ReadonlyMap<EngineName, Way> =>
  new Map(workers.map((worker) => [worker.name, wayOf(worker)]))
