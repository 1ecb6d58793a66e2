import { createHash } from 'node:crypto'
import { chmodSync, createWriteStream, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { removeAbandoned, UNFINISHED } from '@sandbox/host/engines/unfinished'
import { buildMountInto } from '../../../host/native/build.ts'
import type { Config } from '../config.ts'
import { runCommand } from '../setup/run-command.ts'
import { FIRECRACKER_VERSION, firecrackerDir, firecrackerPaths } from './firecracker.ts'
import { renewGuestImage } from './guest-image.ts'
import type { EngineInstaller } from './installer.ts'
import { microvmDir } from './microvm.ts'

/** An archive of the project's, with its checksum as the project publishes it beside it. */
export interface Release {
  /** Of the archive's only folder and, with the programs' names in front, of what is in it. */
  version: string
  url: string
  sha256: string
}

const VERSION_OF_RELEASE = `v${FIRECRACKER_VERSION}-x86_64`
const RELEASE: Release = {
  version: VERSION_OF_RELEASE,
  url: `https://github.com/firecracker-microvm/firecracker/releases/download/v${FIRECRACKER_VERSION}/firecracker-${VERSION_OF_RELEASE}.tgz`,
  sha256: '382a02a869e4d6d5cb14c40577f9545e8458021ea8b0b2d3fc10ec14d9c242e6',
}
const DOWNLOAD_WITHIN_MS = 300_000
const MEBIBYTE = 2 ** 20

type Say = (line: string) => void

/** Firecracker and its jailer from the project's release, or what the settings name, and the guest image. */
export const firecrackerInstaller: EngineInstaller = {
  name: 'firecracker',
  engine: 'microvm',
  doc: `Firecracker ${FIRECRACKER_VERSION} and its jailer from the project's release, verified; a guest kernel from Debian's`,
  installed: describeInstalled,
  async install(config, say) {
    if (!(await versionOf(config))) await renew(config, say)
    await renewGuestImage(config, say)
    await buildMountInto({ outDir: microvmDir(config) })
    const installed = await describeInstalled(config)
    if (!installed)
      throw new Error(
        `there is no Firecracker at ${firecrackerPaths(config).firecracker} after the installation`,
      )
    return installed
  },
}

async function describeInstalled(config: Config): Promise<string | undefined> {
  const { firecracker, mountInto } = firecrackerPaths(config)
  const version = await versionOf(config)
  return version && existsSync(mountInto) ? `${version} (${firecracker})` : undefined
}

/** Of both programs; undefined where one is missing or cannot be run, or they are of two versions. */
async function versionOf(config: Config): Promise<string | undefined> {
  const { firecracker, jailer } = firecrackerPaths(config)
  const [version, other] = await Promise.all(
    [firecracker, jailer].map(async (path) => {
      const said = await runCommand([path, '--version']).catch(() => '')
      return /v(\d+\.\d+\.\d+)/.exec(said)?.[1]
    }),
  )
  return version === other ? version : undefined
}

/** What is there cannot be run. @throws Error when it is not this installer's */
async function renew(config: Config, say: Say): Promise<void> {
  const { firecracker, jailer } = firecrackerPaths(config)
  if (config.firecracker || config.jailer)
    throw new Error(
      `${firecracker} and ${jailer} cannot be run, or are of two versions: ` +
        'correct E2B_FIRECRACKER and E2B_JAILER, or name neither',
    )
  rmSync(firecrackerDir(config), { recursive: true, force: true })
  await installRelease(firecrackerDir(config), RELEASE, say)
}

/**
 * Downloads a release. Its two programs appear by one rename, after the checksum; whatever fails leaves nothing.
 * @param target a directory that does not exist
 * @throws Error with what to do instead
 */
export async function installRelease(target: string, release: Release, say: Say): Promise<void> {
  mkdirSync(dirname(target), { recursive: true })
  removeAbandoned(dirname(target))
  const unfinished = mkdtempSync(join(dirname(target), UNFINISHED))
  try {
    const archive = join(unfinished, 'release.tgz')
    await download(release, archive, say)
    await runCommand(['tar', '-xzf', archive, '-C', unfinished, '--strip-components=1', '--no-same-owner'])
    const made = join(unfinished, 'made')
    mkdirSync(made)
    for (const program of ['firecracker', 'jailer']) {
      renameSync(join(unfinished, `${program}-${release.version}`), join(made, program))
      chmodSync(join(made, program), 0o755)
    }
    renameSync(made, target)
  } finally {
    rmSync(unfinished, { recursive: true, force: true })
  }
}

async function download({ url, sha256 }: Release, path: string, say: Say): Promise<void> {
  say(`downloading ${url}`)
  const answer = await fetch(url, { signal: AbortSignal.timeout(DOWNLOAD_WITHIN_MS) }).catch(
    (error: unknown) => {
      throw new Error(
        `${url} cannot be reached (${(error as Error).message}): fetch it yourself, unpack it, and name ` +
          'the two programs in E2B_FIRECRACKER and E2B_JAILER',
      )
    },
  )
  if (!answer.ok || !answer.body) throw new Error(`${url} answered ${answer.status}`)
  const totalBytes = Number(answer.headers.get('content-length') ?? 0)
  const hash = createHash('sha256')
  let doneBytes = 0
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk)
      const before = Math.floor(doneBytes / MEBIBYTE)
      doneBytes += chunk.length
      if (Math.floor(doneBytes / MEBIBYTE) > before)
        say(`${Math.floor(doneBytes / MEBIBYTE)} of ${Math.ceil(totalBytes / MEBIBYTE)} MiB`)
      done(undefined, chunk)
    },
  })
  await pipeline(Readable.fromWeb(answer.body), count, createWriteStream(path, { flags: 'wx' }))
  const digest = hash.digest('hex')
  if (digest !== sha256)
    throw new Error(`what ${url} gave has the checksum ${digest}, not ${sha256}: nothing was installed`)
}
