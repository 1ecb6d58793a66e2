import { createHash } from 'node:crypto'
import { chmodSync, createWriteStream, existsSync, mkdirSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { Readable, Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { buildMountInto } from '../../../host/native/build.ts'
import type { Config } from '../config.ts'
import { runCommand } from '../setup/run-command.ts'
import { FIRECRACKER_VERSION, firecrackerDir, firecrackerPaths } from './firecracker.ts'
import { ensureGuestImage } from './install-qemu.ts'
import type { EngineInstaller } from './installers.ts'
import { microvmDir } from './microvm.ts'

const NAME = `firecracker-v${FIRECRACKER_VERSION}-x86_64`
const URL_OF_RELEASE = `https://github.com/firecracker-microvm/firecracker/releases/download/v${FIRECRACKER_VERSION}/${NAME}.tgz`
/** Of the archive above, as the project publishes it beside it. */
const ARCHIVE_SHA256 = '382a02a869e4d6d5cb14c40577f9545e8458021ea8b0b2d3fc10ec14d9c242e6'
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
    if (!programs(config)) await downloadRelease(config, say)
    await ensureGuestImage(config, say)
    await buildMountInto({ outDir: microvmDir(config) })
    const installed = await describeInstalled(config)
    if (!installed)
      throw new Error(
        `there is no Firecracker at ${firecrackerPaths(config).firecracker} after the installation`,
      )
    return installed
  },
}

function programs(config: Config): boolean {
  const { firecracker, jailer } = firecrackerPaths(config)
  return existsSync(firecracker) && existsSync(jailer)
}

async function describeInstalled(config: Config): Promise<string | undefined> {
  const { firecracker, mountInto } = firecrackerPaths(config)
  if (!programs(config) || !existsSync(mountInto)) return undefined
  const version = /v(\d+\.\d+\.\d+)/.exec(await runCommand([firecracker, '--version']))?.[1] ?? ''
  return `${version} (${firecracker})`
}

/** Appears by one rename, after its checksum. */
async function downloadRelease(config: Config, say: Say): Promise<void> {
  const target = firecrackerDir(config)
  mkdirSync(dirname(target), { recursive: true })
  const unfinished = mkdtempSync(join(dirname(target), '.new-'))
  try {
    const archive = join(unfinished, `${NAME}.tgz`)
    await download(archive, say)
    await runCommand(['tar', '-xzf', archive, '-C', unfinished, '--strip-components=1', '--no-same-owner'])
    const made = join(unfinished, 'made')
    mkdirSync(made)
    for (const program of ['firecracker', 'jailer']) {
      renameSync(join(unfinished, `${program}-v${FIRECRACKER_VERSION}-x86_64`), join(made, program))
      chmodSync(join(made, program), 0o755)
    }
    renameSync(made, target)
  } finally {
    rmSync(unfinished, { recursive: true, force: true })
  }
}

async function download(path: string, say: Say): Promise<void> {
  say(`downloading ${URL_OF_RELEASE}`)
  const answer = await fetch(URL_OF_RELEASE, { signal: AbortSignal.timeout(DOWNLOAD_WITHIN_MS) }).catch(
    (error: unknown) => {
      throw new Error(
        `${URL_OF_RELEASE} cannot be reached (${(error as Error).message}): fetch it yourself, unpack it, and name ` +
          'the two programs in E2B_FIRECRACKER and E2B_JAILER',
      )
    },
  )
  if (!answer.ok || !answer.body) throw new Error(`${URL_OF_RELEASE} answered ${answer.status}`)
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
  if (digest !== ARCHIVE_SHA256)
    throw new Error(
      `what ${URL_OF_RELEASE} gave has the checksum ${digest}, not ${ARCHIVE_SHA256}: nothing was installed`,
    )
}
