import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { runCommand } from '../../packages/server/src/setup/run-command.ts'

/**
 * The QEMU that emulates the machine: Debian 13's, unpacked beside whatever is installed here. Since the 7.2 of Debian 12
 * its virtualization within TCG has been mended in several places; it still has accidents (tests/README.md).
 */

const SUITE = 'trixie'
const PACKAGE = 'qemu-system-x86'
const LIBRARIES = 'usr/lib/x86_64-linux-gnu'

/**
 * Fetches it unless it is in `cacheDir`: a quarter of a minute.
 * @returns the words of a command line before QEMU's own options
 */
export async function ensureEmulator(cacheDir: string, say: (line: string) => void): Promise<string[]> {
  const dir = join(cacheDir, `emulator-${SUITE}`)
  if (!existsSync(dir)) await unpack(dir, say)
  const libraries = join(dir, LIBRARIES)
  return [
    ...['env', `QEMU_MODULE_DIR=${join(libraries, 'qemu')}`],
    ...[join(libraries, 'ld-linux-x86-64.so.2'), '--library-path', libraries],
    join(dir, 'usr/bin/qemu-system-x86_64'),
    ...['-L', join(dir, 'usr/share/qemu'), '-L', join(dir, 'usr/share/seabios')],
  ]
}

async function unpack(dir: string, say: (line: string) => void): Promise<void> {
  const draft = `${dir}.${process.pid}`
  say(`Unpacking QEMU of Debian ${SUITE}`)
  mkdirSync(draft, { recursive: true })
  try {
    await runCommand([
      ...['mmdebstrap', '--quiet', '--mode=root', '--variant=extract', '--format=directory'],
      ...['--aptopt=APT::Install-Recommends "false"', `--include=${PACKAGE}`, SUITE, draft],
    ])
    renameSync(draft, dir)
  } finally {
    rmSync(draft, { recursive: true, force: true })
  }
}
