/**
 * A template as data: what it starts from, the steps of its build, and how its sandbox starts. The steps are
 * those of the build API (`RUN`, `COPY`, `ENV`, `USER`, `WORKDIR`), so a definition can be sent to it as it is.
 *
 * @example
 * const hello = define({
 *   name: 'hello',
 *   from: { template: 'base' },
 *   steps: [run('pip install cowsay==6.1'), env({ GREETING: 'hello' })],
 * })
 */

type StepType = 'RUN' | 'COPY' | 'ENV' | 'USER' | 'WORKDIR'

export interface TemplateStep {
  type: StepType
  args: string[]
}

/** A root file system made by this machine's setup, or another template by its name. */
type TemplateSource = { rootfs: string } | { template: string }

export interface TemplateDefinition {
  name: string
  from: TemplateSource
  steps: TemplateStep[]
  /** Runs detached when the sandbox boots for its snapshot. */
  startCmd?: string
  /** Asked until it exits with 0; then the snapshot is taken. */
  readyCmd?: string
  cpuCount: number
  memoryMib: number
  /** Engine that its sandboxes run on; without one each machine's own. */
  isolation?: 'container' | 'gvisor' | 'microvm'
}

const DEFAULT_RESOURCES = { cpuCount: 2, memoryMib: 1024 }

export function define(
  template: Omit<TemplateDefinition, 'cpuCount' | 'memoryMib'> & Partial<TemplateDefinition>,
): TemplateDefinition {
  return { ...DEFAULT_RESOURCES, ...template }
}

/** Runs a command in bash, as the current user or the given one. */
export const run = (command: string, user?: string): TemplateStep => ({
  type: 'RUN',
  args: user === undefined ? [command] : [command, user],
})

export const env = (variables: Readonly<Record<string, string>>): TemplateStep => ({
  type: 'ENV',
  args: Object.entries(variables).flat(),
})

export const user = (name: string): TemplateStep => ({ type: 'USER', args: [name] })

export const workdir = (path: string): TemplateStep => ({ type: 'WORKDIR', args: [path] })

/** A command line may hold this much in one argument (the kernel's bound is 128 KiB). */
const MAX_COMMAND_BYTES = 100_000

/** Writes text files as root. They travel inside the command, so nothing has to be uploaded first. */
export function files(contents: Readonly<Record<string, string>>): TemplateStep {
  const command = Object.entries(contents)
    .map(([path, text]) => {
      const encoded = Buffer.from(text).toString('base64')
      return `mkdir -p '${folderOf(path)}' && echo ${encoded} | base64 -d > '${path}'`
    })
    .join(' && ')
  if (command.length > MAX_COMMAND_BYTES) throw new RangeError('too much text for one step, split the files')
  return run(command, 'root')
}

function folderOf(path: string): string {
  if (!/^(\/[\w.@-]+)+$/.test(path)) throw new RangeError(`not a plain absolute path: ${path}`)
  return path.slice(0, path.lastIndexOf('/')) || '/'
}
