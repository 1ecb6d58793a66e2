import { mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { runscVersion } from '@sandbox/host/engines/gvisor/runsc'
import { removeAbandoned, UNFINISHED } from '@sandbox/host/engines/unfinished'
import { errorCode } from '@sandbox/host/linux/libc'
import type { Config } from '../config.ts'
import { runCommand } from '../setup/run-command.ts'
import { findRunsc, RUNSC_VERSION, runscPath } from './gvisor.ts'
import { installRunscPackage } from './install-runsc-package.ts'
import type { EngineInstaller } from './installer.ts'

const MODULE = 'gvisor.dev/gvisor/runsc'
type Say = (line: string) => void

/** runsc, in this order: what is there, built from the Go module proxy, the project's apt repository. */
export const gvisorInstaller: EngineInstaller = {
  name: 'gvisor',
  engine: 'gvisor',
  doc: `runsc ${RUNSC_VERSION}: built where Go is, else from the project's apt repository`,
  installed: describeInstalled,
  async install(config, say) {
    await removeBroken(config)
    const known = await describeInstalled(config)
    if (known) return known
    if (await hasGo()) await build(config, say)
    else {
      say("there is no Go here: the project's apt repository has it as a package")
      await installRunscPackage(say)
    }
    const installed = await describeInstalled(config)
    if (!installed) throw new Error(`no runsc of ${RUNSC_VERSION} or newer came of it`)
    return installed
  },
}

async function describeInstalled(config: Pick<Config, 'imagesDir'>): Promise<string | undefined> {
  const found = await findRunsc(config)
  return found && `${found.version} (${found.path})`
}

/** One that cannot be run, or says that it is another, is built anew. */
export async function removeBroken(config: Pick<Config, 'imagesDir'>): Promise<void> {
  const path = runscPath(config)
  if ((await runscVersion(path).catch(() => '')) !== RUNSC_VERSION)
    rmSync(dirname(path), { recursive: true, force: true })
}

const hasGo = (): Promise<boolean> =>
  runCommand(['go', 'version']).then(
    () => true,
    () => false,
  )

/**
 * The version goes into the binary, which the proxy's modules lack: memory is refused by another version, and a
 * constant name would hide a real change. Appears by one rename.
 */
async function build(config: Pick<Config, 'imagesDir'>, say: Say): Promise<void> {
  const target = dirname(runscPath(config))
  const parent = dirname(target)
  mkdirSync(parent, { recursive: true })
  removeAbandoned(parent)
  const unfinished = mkdtempSync(join(parent, UNFINISHED))
  let compiled = 0
  try {
    say(`building runsc ${RUNSC_VERSION} from the Go module proxy (1 to 3 minutes)`)
    await runCommand(
      [
        ...['nice', '-n', '10', 'go', 'install', '-v', '-trimpath'],
        ...['-ldflags', `-s -w -X ${MODULE}/version.version=${RUNSC_VERSION}`, `${MODULE}@${RUNSC_VERSION}`],
      ],
      {
        env: { CGO_ENABLED: '0', GOTOOLCHAIN: 'local', GOFLAGS: '-buildvcs=false', GOBIN: unfinished },
        logPath: join(parent, 'build.log'),
        onLine: (line) => {
          if (!line.startsWith('go: ') && ++compiled % 50 === 0) say(`${compiled} packages compiled`)
        },
      },
    )
    const version = await runscVersion(join(unfinished, 'runsc'))
    if (version !== RUNSC_VERSION) throw new Error(`what was built calls itself '${version}'`)
    publish(unfinished, target)
  } finally {
    rmSync(unfinished, { recursive: true, force: true })
  }
}

/** One that another set-up has put there meanwhile stays. */
function publish(unfinished: string, target: string): void {
  try {
    renameSync(unfinished, target)
  } catch (error) {
    if (errorCode(error) !== 'ENOTEMPTY' && errorCode(error) !== 'EEXIST') throw error
  }
}
