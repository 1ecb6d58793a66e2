import { join } from 'node:path'
import { type RunResult, run } from '../../linux/process.ts'

/** A runsc binary of this machine. Memory is refused by any other version, so the version is its identity. */
export interface Runsc {
  path: string
  /** As `runsc --version` says it. */
  version: string
}

/** How runsc isolates: in user space, on every machine. */
export const PLATFORM = 'systrap'

/** Each sandbox has a state directory of its own, so every one has the same name in it. */
export const SANDBOX = 'sandbox'

/** A command over the control socket takes 10 to 30 ms; past this bound the sentry hangs. */
const CONTROL_WITHIN_MS = 15_000
/** What waits for the disk: memory is written at about a gigabyte a second. */
const DISK_WITHIN_MS = 180_000

/** Where runsc keeps what belongs to one sandbox. */
export interface RunscPlaces {
  /** State and control socket. */
  stateDir: string
  logPath: string
}

/** What a slot's shim executes to start a sandbox. */
export interface RunscStart extends RunscPlaces {
  bundleDir: string
  pidFile: string
  /** An empty network namespace that the file servers of all sandboxes live in. */
  fileServerNetns: string
}

/**
 * Options of every command; those that a sandbox keeps must be the same when its memory is restored.
 *
 * The written files lie in the overlay of this machine (`overlay2=none`), which one sandbox alone changes
 * (`exclusive`). Cgroups are the slot's, entered before runsc starts. The specification of a restored sandbox has
 * other user ids than that of the captured one, which validation would refuse. Inside there is one hierarchy of
 * cgroups: with several a new process is charged to one that is drawn, so that most forks miss the limit of processes
 * (`Task.chargeLocked`).
 */
const options = ({ stateDir, logPath }: RunscPlaces): string[] => [
  ...[`--root=${stateDir}`, `--log=${logPath}`],
  ...[`--platform=${PLATFORM}`, '--network=sandbox', '--overlay2=none', '--file-access=exclusive'],
  ...['--host-uds=none', '--host-fifo=none', '--net-raw=false', '--allow-suid', '--ignore-cgroups'],
  ...['--restore-spec-validation=ignore', '--host-settings=ignore', '--in-sandbox-cgroup=v2'],
]

/** Boots a bundle. */
export const bootProgram = (runsc: Runsc, start: RunscStart): string[] => [
  ...startProgram(runsc, start),
  ...['run', '-detach', '-pid-file', start.pidFile, '-bundle', start.bundleDir, SANDBOX],
]

/** Goes on from memory; pages are read while the sandbox runs already. */
export const restoreProgram = (runsc: Runsc, start: RunscStart, memoryDir: string): string[] => [
  ...startProgram(runsc, start),
  ...['restore', '-detach', '-background', '-image-path', memoryDir],
  ...['-pid-file', start.pidFile, '-bundle', start.bundleDir, SANDBOX],
]

const startProgram = (runsc: Runsc, start: RunscStart): string[] => [
  ...[runsc.path, ...options(start), `--gofer-network-namespace=${start.fileServerNetns}`],
]

/** Stops every task inside; nothing moves until `resume`. Throws CommandError. */
export const pause = (runsc: Runsc, places: RunscPlaces): Promise<RunResult> =>
  control(runsc, places, ['pause', SANDBOX], DISK_WITHIN_MS)

export const resume = (runsc: Runsc, places: RunscPlaces): Promise<RunResult> =>
  control(runsc, places, ['resume', SANDBOX])

/** Signals the sandbox's init. Throws CommandError. */
export const signalInit = (runsc: Runsc, places: RunscPlaces, signal: string): Promise<RunResult> =>
  control(runsc, places, ['kill', SANDBOX, signal])

/** Writes memory and kernel state into an empty directory; a paused sandbox stays paused. Throws CommandError. */
export const checkpoint = (runsc: Runsc, places: RunscPlaces, memoryDir: string): Promise<RunResult> => {
  const how = ['-compression=none', '-exclude-committed-zero-pages', '-leave-running']
  return control(runsc, places, ['checkpoint', ...how, '-image-path', memoryDir, SANDBOX], DISK_WITHIN_MS)
}

/** Whether a command that was cut off left the sandbox paused. */
export async function isPaused(runsc: Runsc, places: RunscPlaces): Promise<boolean> {
  const { stdout } = await control(runsc, places, ['state', SANDBOX])
  return (JSON.parse(stdout) as { status?: string }).status === 'paused'
}

const control = (
  runsc: Runsc,
  places: RunscPlaces,
  words: readonly string[],
  timeoutMs = CONTROL_WITHIN_MS,
): Promise<RunResult> => run(runsc.path, [...options(places), ...words], { timeoutMs, env: {} })

/** @throws CommandError, or Node's ENOENT when there is none */
export async function runscVersion(path: string): Promise<string> {
  const { stdout } = await run(path, ['--version'], { timeoutMs: 10_000, env: {} })
  return /^runsc version (\S+)$/m.exec(stdout)?.[1] ?? ''
}

/** The places of a sandbox in a slot. */
export const runscPlaces = (slotDir: string): RunscPlaces => ({
  stateDir: join(slotDir, 'runsc'),
  logPath: join(slotDir, 'engine.log'),
})
