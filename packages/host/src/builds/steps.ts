import { posix } from 'node:path'
import type { LineSink } from '../agent/agent-process.ts'
import { runCommand } from '../agent/agent-process.ts'
import type { Cell } from '../cells/cells.ts'
import { HostError } from '../host-error.ts'

/** One build step, applied to a running build sandbox. Steps that only change the configuration need none. */

export interface BuildStep {
  /** Matched without regard to case. */
  readonly type: string
  readonly args: readonly string[]
  readonly filesHash: string
  readonly force: boolean
}

/** What steps change besides files. */
export interface BuildContext {
  readonly envVars: Readonly<Record<string, string>>
  readonly user: string
  readonly workdir: string
}

export interface StepRun {
  cell: Cell
  onLine: LineSink
  signal: AbortSignal
}

const USER_NAME = /^[A-Za-z_][A-Za-z0-9_.-]{0,31}$/
const ENV_NAME = /^[A-Za-z_][A-Za-z0-9_]*$/

const STEP_TYPES = ['RUN', 'COPY', 'ENV', 'WORKDIR', 'USER'] as const
export type StepType = (typeof STEP_TYPES)[number]

/** @throws HostError failed for a type that does not exist */
export function stepType(step: BuildStep): StepType {
  const type = step.type.toUpperCase()
  const known = STEP_TYPES.find((one) => one === type)
  if (!known) throw new HostError('failed', `unknown build step '${step.type}'`)
  return known
}

/** True when the step may write files, so that it needs a running sandbox. */
export const touchesFiles = (step: BuildStep): boolean => stepType(step) !== 'ENV'

/**
 * Applies a step and returns the context that holds after it.
 * @param run needed for steps that touch files
 * @throws HostError failed with a sentence for the template's author
 */
export async function applyStep(
  step: BuildStep,
  context: BuildContext,
  run: StepRun | undefined,
): Promise<BuildContext> {
  const type = stepType(step)
  if (type === 'ENV') return { ...context, envVars: expandedEnv(step.args, context.envVars) }
  if (!run) throw new Error(`a ${type} step needs a running sandbox`)
  switch (type) {
    case 'RUN':
      await runStep(step.args, context, run)
      return context
    case 'WORKDIR':
      return { ...context, workdir: await makeWorkdir(step.args, context, run) }
    case 'USER':
      return { ...context, user: await makeUser(step.args, run) }
    case 'COPY':
      throw new HostError('unsupported', 'COPY steps need file uploads, which this host does not take yet')
  }
}

async function runStep(args: readonly string[], context: BuildContext, run: StepRun): Promise<void> {
  const [cmd, user] = args
  if (!cmd) throw new HostError('failed', 'a RUN step needs a command')
  const command = {
    cmd: '/bin/bash',
    args: ['-l', '-c', cmd],
    user: user || context.user,
    cwd: context.workdir,
    envs: context.envVars,
  }
  const { exitCode, status } = await runCommand(run.cell.address, command, run.onLine, run.signal)
  if (exitCode !== 0) throw new HostError('failed', `failed to run command '${cmd}': ${status}`)
}

/** Creates the directory; what had to be made belongs to the current user, from the first missing parent down. */
const MAKE_WORKDIR = `
dir=$1 owner=$2 first=
while [ ! -e "$dir" ]; do first=$dir; dir=$(dirname "$dir"); done
mkdir -p "$1" && { [ -z "$first" ] || chown -R "$owner:" "$first"; }
`

async function makeWorkdir(args: readonly string[], context: BuildContext, run: StepRun): Promise<string> {
  const [path] = args
  if (!path) throw new HostError('failed', 'a WORKDIR step needs a path')
  const workdir = posix.resolve('/', context.workdir, path)
  await runAsRoot(
    MAKE_WORKDIR,
    [workdir, context.user],
    run,
    `the work directory ${workdir} could not be made`,
  )
  return workdir
}

const MAKE_USER = `
id -u "$1" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$1" || exit 1
[ "$2" != true ] || { mkdir -p /etc/sudoers.d && echo "$1 ALL=(ALL:ALL) NOPASSWD: ALL" >"/etc/sudoers.d/$1" &&
  chmod 0440 "/etc/sudoers.d/$1"; }
`

async function makeUser(args: readonly string[], run: StepRun): Promise<string> {
  const [name, withSudo = 'false'] = args
  if (!name || !USER_NAME.test(name)) throw new HostError('failed', `'${name ?? ''}' is no valid user name`)
  await runAsRoot(MAKE_USER, [name, withSudo], run, `the user ${name} could not be made`)
  return name
}

/** The script is ours; what the author gave arrives as its arguments, never as text of it. */
async function runAsRoot(
  script: string,
  args: readonly string[],
  run: StepRun,
  failure: string,
): Promise<void> {
  const command = {
    cmd: '/bin/bash',
    args: ['-c', script, 'bash', ...args],
    user: 'root',
    cwd: '/',
    envs: {},
  }
  const { exitCode, status } = await runCommand(run.cell.address, command, run.onLine, run.signal)
  if (exitCode !== 0) throw new HostError('failed', `${failure}: ${status}`)
}

/** ENV arguments are pairs; each value sees the variables set so far. */
export function expandedEnv(
  args: readonly string[],
  envVars: Readonly<Record<string, string>>,
): Record<string, string> {
  if (args.length === 0 || args.length % 2 !== 0)
    throw new HostError('failed', 'an ENV step needs names and values in pairs')
  const result = { ...envVars }
  for (let at = 0; at < args.length; at += 2) {
    const name = args[at]!
    if (!ENV_NAME.test(name)) throw new HostError('failed', `'${name}' is no valid name of a variable`)
    result[name] = expand(args[at + 1]!, result)
  }
  return result
}

/** `$NAME` and `${NAME}` only; everything else, quotes and substitutions included, stays as it is. */
const expand = (value: string, envVars: Readonly<Record<string, string>>): string =>
  value.replace(
    /\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})/g,
    (_match, plain?: string, braced?: string) => {
      const name = plain ?? braced ?? ''
      return Object.hasOwn(envVars, name) ? envVars[name]! : ''
    },
  )
