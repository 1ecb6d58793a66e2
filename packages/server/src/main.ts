#!/usr/bin/env node
import { ENGINE_NAMES } from '@sandbox/host/engines/engine'
import { Command, CommanderError, Option } from 'commander'
import { type Config, ConfigError, describeSettings, loadConfig, settingFlags } from './config.ts'
import { firstFailure } from './first-failure.ts'

/** The operator's command. Exit codes: 0 done, 1 failed, 2 wrong use or configuration, 130 interrupted. */

const program = new Command('e2b-server')
  .description('Secure, isolated Linux sandboxes for AI agents, on this machine.')
  .showHelpAfterError('(--help lists what there is)')
  .exitOverride()
  .addHelpText('afterAll', `\n${describeSettings()}\n`)

function command(name: string, doc: string): Command {
  const added = program.command(name).description(doc).option('--config <path>', 'configuration file (JSON)')
  for (const flag of settingFlags()) added.addOption(new Option(flag).hideHelp())
  return added
}

const configOf = (of: Command): Config => loadConfig(of.optsWithGlobals())

/** What all but `doctor` need: without it they would fail at the first file, namespace or mount that they touch. */
function rootsConfigOf(of: Command): Config {
  const config = configOf(of)
  if (process.getuid?.() === 0) return config
  throw new ConfigError('Run this as root: sandboxes need namespaces, mounts and firewall rules.')
}

command('up', 'Run the server: API, sandbox proxy and host in one process.').action(
  async (_options, self) => {
    const { up } = await import('./commands/up.ts')
    await up(rootsConfigOf(self))
  },
)

command('setup', 'Install what is missing and build the templates; what is there is left alone.').action(
  async (_options, self) => {
    const { setup } = await import('./setup/setup.ts')
    await setup(rootsConfigOf(self))
  },
)

command('quickstart', 'Set everything up and run examples/quickstart.py.').action(async (_options, self) => {
  const { quickstart } = await import('./commands/quickstart.ts')
  process.exitCode = await quickstart(rootsConfigOf(self))
})

command('env', 'Print shell exports for the official clients.')
  .option('--http', 'the header-routed plain HTTP form', false)
  .option('--json', 'as JSON', false)
  .action(async (options: { http: boolean; json: boolean }, self) => {
    const { printEnvironment } = await import('./commands/env.ts')
    process.stdout.write(`${printEnvironment(rootsConfigOf(self), options)}\n`)
  })

command('doctor', 'List each requirement and engine with verdict and remedy.')
  .option('--json', 'as JSON', false)
  .action(async (options: { json: boolean }, self) => {
    const { doctor } = await import('./commands/doctor.ts')
    process.exitCode = await doctor(configOf(self), options.json)
  })

command('engine', 'List the engines that can be installed here, or install one.')
  .argument('<action>', "'list' or 'install'")
  .argument('[name]', 'what to install: firecracker, qemu or gvisor')
  .option('--json', 'as JSON', false)
  .action(async (action: string, name: string | undefined, options: { json: boolean }, self) => {
    const { installEngine, listEngines } = await import('./commands/engine.ts')
    if (action === 'install') await installEngine(rootsConfigOf(self), name, options.json)
    else if (action === 'list' && name === undefined) await listEngines(rootsConfigOf(self), options.json)
    else if (action === 'list') throw new ConfigError(`'engine list' takes no name, not '${name}'`)
    else throw new ConfigError(`'${action}' is not an action of engine: use list or install`)
  })

command('template', 'Show a template of the running server, or choose the engine of its sandboxes.')
  .argument('<name>', 'name or id')
  .addOption(new Option('--engine <engine>', 'of sandboxes from now on').choices(['auto', ...ENGINE_NAMES]))
  .option('--json', 'as JSON', false)
  .action(async (name: string, options: { engine?: string; json: boolean }, self) => {
    const { showTemplate } = await import('./commands/template.ts')
    await showTemplate(rootsConfigOf(self), name, options)
  })

command('key', 'Create an API key of a team and print it once.')
  .option('--team <slug>', 'team; made when missing', 'default')
  .option('--name <name>', 'what the key is called', 'cli')
  .option('--json', 'as JSON', false)
  .action(async (options: { team: string; name: string; json: boolean }, self) => {
    const { createKey } = await import('./commands/key.ts')
    process.stdout.write(`${await createKey(rootsConfigOf(self), options)}\n`)
  })

command(
  'teardown',
  'Remove every sandbox and kernel object of this instance; the state directory stays.',
).action(async (_options, self) => {
  const { teardown } = await import('./commands/teardown.ts')
  await teardown(rootsConfigOf(self))
})

/** A sentence for the operator, with what to do where the system's own words do not say it. */
function explain(error: Error & NodeJS.ErrnoException): string {
  if (error.code !== 'EADDRINUSE') return error.message
  return `${error.message}: end what listens there, or choose another port (--help lists them)`
}

try {
  await program.parseAsync()
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2)
  const failure = firstFailure(error)
  process.stderr.write(`${explain(failure)}\n`)
  // What has failed may have left a timer or a socket; nobody waits for it.
  process.exit(failure instanceof ConfigError ? 2 : 1)
}
