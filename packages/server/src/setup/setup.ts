import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { buildAgentLayer } from '@sandbox/envd/layer/build'
import { buildCriu } from '@sandbox/host/engines/container/criu/build'
import { LayerStore } from '@sandbox/host/storage/layers'
import { Listr, type ListrTask } from 'listr2'
import { buildShim } from '../../../host/native/build.ts'
import { type Config, ConfigError } from '../config.ts'
import { ensureGuestImage } from '../engines/guest-image.ts'
import { microvmDir } from '../engines/microvm.ts'
import { type Runtime, readRuntime, runtimeDir, writeRuntime } from '../runtime.ts'
import { type BaseSource, ensureBaseRootfs } from './base-rootfs.ts'
import { buildTemplates } from './build-templates.ts'
import { installPackages } from './packages.ts'
import { installPythonClients } from './python-clients.ts'
import { firstObstacle } from './requirements.ts'
import { takeSetupLock } from './setup-lock.ts'

/** One for the machine: the host that builds has one name, whatever state directory it builds for. */
const LOCK_PATH = '/run/lock/e2b-setup.lock'

/** What the tasks hand to each other. */
interface SetupContext {
  criu?: Runtime['criu']
  shimPath?: string
  agentLayer?: Runtime['agentLayer']
  base?: BaseSource
}

type Task = ListrTask<SetupContext>

/** Longest line of progress that is shown; logs keep the whole. */
const SHOWN_CHARACTERS = 100
/** Without a terminal, progress is a line of text: one in a while is enough. */
const LINE_EVERY_MS = process.stdout.isTTY ? 0 : 5_000

/** A task that ends by saying how it went, and shows what it does meanwhile. */
function task(
  title: string,
  run: (context: SetupContext, say: (line: string) => void) => Promise<string>,
): Task {
  return {
    title,
    task: async (context, handle) => {
      let shownMs = 0
      const outcome = await run(context, (line) => {
        if (Date.now() - shownMs < LINE_EVERY_MS) return
        shownMs = Date.now()
        handle.output = line.slice(0, SHOWN_CHARACTERS)
      })
      handle.title = `${title}: ${outcome}`
    },
    rendererOptions: { persistentOutput: false },
  }
}

const criuTask = (config: Config): Task =>
  task('CRIU, built from source with copy-on-write restore', async (context, say) => {
    try {
      context.criu = await buildCriu({
        cacheDir: join(config.stateDir, 'cache'),
        outDir: join(runtimeDir(config), 'criu'),
        progress: say,
      })
      const { kind, version, reason } = context.criu
      return kind === 'cow' ? version : `stock ${version}, slower starts (${reason})`
    } catch (error) {
      context.criu = undefined
      return `none usable, every start boots (${(error as Error).message})`
    }
  })

const agentTask = (config: Config): Task =>
  task("The agent's own layer", async (context, say) => {
    context.shimPath = await buildShim({ outDir: runtimeDir(config) })
    say('bundling agent, interpreter and their Node')
    const outDir = join(config.stateDir, 'cache', 'agent-layer')
    const built = await buildAgentLayer({ outDir, cacheDir: join(config.stateDir, 'cache') })
    const store = new LayerStore({
      layersDir: join(config.imagesDir, 'layers'),
      // Nothing is mounted here: the store only imports.
      mountsDir: join(config.stateDir, 'cache', 'layer-mounts'),
    })
    const known = readRuntime(config)?.agentLayer
    if (known?.inputs === built.digestInputs && store.get(known.digest)) {
      context.agentLayer = known
      return 'unchanged'
    }
    say('packing')
    const layer = await store.importDirectory(built.directory)
    context.agentLayer = { digest: layer.digest, inputs: built.digestInputs }
    return `${(layer.sizeBytes / 2 ** 20).toFixed(0)} MiB`
  })

/** Where microVMs were installed once, an upgrade of ours must not leave them without a guest. */
const guestTask = (config: Config): Task =>
  task('Guest kernel of microVMs', (_context, say) => ensureGuestImage(config, say))

function tasks(config: Config, logs: string): Task[] {
  return [
    task('Debian packages', (_context, say) => installPackages(say, join(logs, 'packages.log'))),
    {
      title: 'Programs and root file system',
      task: (_context, handle) =>
        handle.newListr(
          [
            task('Root file system of the base template', async (context, say) => {
              const { outcome, ...base } = await ensureBaseRootfs(config, say)
              context.base = base
              return outcome
            }),
            criuTask(config),
            agentTask(config),
            ...(existsSync(microvmDir(config)) ? [guestTask(config)] : []),
            task('Official Python clients', () =>
              installPythonClients(config, join(logs, 'python-clients.log')),
            ),
          ],
          { concurrent: 2 },
        ),
    },
    task('Templates base and code-interpreter-v1', async (context, say) => {
      if (!context.shimPath || !context.agentLayer || !context.base) {
        throw new Error('the tasks before this one left something out')
      }
      const { criu, shimPath, agentLayer } = context
      await writeRuntime(config, { criu, shimPath, agentLayer })
      return buildTemplates(config, context.base, join(logs, 'templates.log'), say)
    }),
  ]
}

/**
 * Makes this machine ready: packages, CRIU, the agent's layer, the templates. What is there is left alone, so it may
 * be interrupted and repeated at will; a second one waits for the first.
 * @throws ConfigError when the machine cannot run sandboxes; Error of the task that failed
 */
export async function setup(config: Config): Promise<void> {
  const obstacle = firstObstacle(config.stateDir)
  if (obstacle) throw new ConfigError(obstacle)
  const logs = join(config.stateDir, 'logs')
  mkdirSync(logs, { recursive: true })
  const unlock = await takeSetupLock(LOCK_PATH)
  try {
    await new Listr<SetupContext, 'default' | 'simple'>(tasks(config, logs), {
      concurrent: false,
      rendererOptions: { timer: timer(), collapseSubtasks: false },
      fallbackRenderer: 'simple',
      fallbackRendererOptions: { timer: timer() },
    }).run({})
  } finally {
    unlock()
  }
}

const timer = () => ({
  condition: true,
  field: (duration: number) => `${(duration / 1000).toFixed(1)} s`,
  format: () => (text?: string) => text ?? '',
})
