import { spawnSync } from 'node:child_process'
import { runCommand } from './run-command.ts'

/** What the host needs from Debian or Ubuntu, and for what. */
const debianPackages: Record<string, string> = {
  crun: 'boots a template once, before its memory is captured',
  nftables: 'egress rules and address translation per sandbox',
  iproute2: 'network namespaces and veths',
  'erofs-utils': 'read-only file-system layers',
  'btrfs-progs': 'writable disks with a hard cap',
  mmdebstrap: 'the root file system of the base template',
  patchelf: "the agent's own loader and libraries",
  gcc: 'CRIU and the three small native programs',
  make: 'CRIU',
  patch: 'the copy-on-write change to CRIU',
  'pkg-config': 'CRIU',
  'libc6-dev': 'static native programs',
  'libprotobuf-dev': 'CRIU',
  'libprotobuf-c-dev': 'CRIU',
  'protobuf-c-compiler': 'CRIU',
  'protobuf-compiler': 'CRIU',
  'python3-protobuf': 'CRIU',
  'libnl-3-dev': 'CRIU',
  'libcap-dev': 'CRIU',
  'libnet1-dev': 'CRIU',
  'libbsd-dev': 'CRIU',
  'uuid-dev': 'CRIU',
  'libnss-myhostname': 'resolves names under .localhost',
  'ca-certificates': 'TLS',
  'python3-venv': 'the official Python client of the quickstart',
  curl: 'downloads of sources',
  'xz-utils': 'unpacking',
}

/** The packages that are not installed on this machine, by dpkg's own word. */
export function missingPackages(names: readonly string[] = Object.keys(debianPackages)): string[] {
  const result = spawnSync('dpkg-query', ['-W', '-f', '${Package} ${db:Status-Abbrev}\n', ...names], {
    encoding: 'utf8',
  })
  const installed = new Set(
    (result.stdout ?? '')
      .split('\n')
      .filter((line) => line.endsWith('ii '))
      .map((line) => line.split(' ')[0]),
  )
  return names.filter((name) => !installed.has(name))
}

/**
 * Installs what is missing; a machine that has everything spawns one dpkg-query.
 * @param names Debian packages; default what the host needs
 */
export async function installPackages(
  onProgress: (line: string) => void,
  logPath: string,
  names?: readonly string[],
): Promise<string> {
  const missing = missingPackages(names)
  if (missing.length === 0) return 'all present'
  const env = { DEBIAN_FRONTEND: 'noninteractive', LC_ALL: 'C.UTF-8' }
  onProgress('apt-get update')
  await runCommand(['apt-get', 'update', '-q'], { logPath, env })
  let done = 0
  await runCommand(['apt-get', 'install', '-y', '-q', '--no-install-recommends', ...missing], {
    logPath,
    env,
    onLine: (line) => {
      if (line.startsWith('Setting up ')) onProgress(`${++done} packages set up`)
    },
  })
  return `${missing.length} installed`
}
