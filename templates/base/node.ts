/** Node and npm for the base template: the binary of an npm package, npm from its own. */
import { chmod, copyFile, mkdir, mkdtemp, readdir, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { runProgram } from './program.ts'

const NPM_VERSION = '11.6.2'

/** Puts `node`, `npm` and `npx` into /usr/local of the root directory. Asks the npm registry of the host. */
export async function installNode(
  rootDir: string,
  nodePackageDir: string,
  signal?: AbortSignal,
): Promise<void> {
  const binDir = join(rootDir, 'usr/local/bin')
  const npmDir = join(rootDir, 'usr/local/lib/node_modules/npm')
  await copyFile(join(nodePackageDir, 'bin/node'), join(binDir, 'node'))
  await chmod(join(binDir, 'node'), 0o755)
  await mkdir(npmDir, { recursive: true })
  const scratch = await mkdtemp(join(tmpdir(), 'npm-package-'))
  const options = signal === undefined ? {} : { signal }
  try {
    await runProgram(
      'npm',
      ['pack', `npm@${NPM_VERSION}`, '--pack-destination', scratch, '--silent'],
      options,
    )
    const [archive] = await readdir(scratch)
    if (archive === undefined) throw new Error('npm pack left no archive')
    const unpack = ['--no-same-owner', '-xzf', join(scratch, archive), '-C', npmDir, '--strip-components=1']
    await runProgram('tar', unpack, options)
  } finally {
    await rm(scratch, { recursive: true, force: true })
  }
  await symlink('../lib/node_modules/npm/bin/npm-cli.js', join(binDir, 'npm'))
  await symlink('../lib/node_modules/npm/bin/npx-cli.js', join(binDir, 'npx'))
}
