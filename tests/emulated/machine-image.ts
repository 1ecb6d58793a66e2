import { createHash } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { runCommand } from '../../packages/server/src/setup/run-command.ts'

/** The emulated machine's kernel and root file system: a small Debian with what a host of sandboxes needs. */

export interface MachineImage {
  /** As QEMU boots it. */
  kernelPath: string
  initramfsPath: string
  /** EROFS, the first disk. */
  rootPath: string
}

/** What the set-up installs on a machine, without what only builds need; what CRIU is linked with; what cases use. */
const PACKAGES = [
  ...['iproute2', 'nftables', 'crun', 'btrfs-progs', 'erofs-utils', 'e2fsprogs', 'kmod', 'procps'],
  ...['ca-certificates', 'libnss-myhostname', 'libprotobuf-c1', 'libnl-3-200', 'libnet1', 'libbsd0'],
  ...['libcap2', 'libuuid1'],
  ...['python3', 'openssl', 'mount'],
]
const SUITE = 'bookworm'
const KERNEL_PACKAGE = 'linux-image-cloud-amd64'
const DPKG_OPTIONS = [
  'force-unsafe-io',
  'path-exclude=/usr/share/doc/*',
  'path-exclude=/usr/share/man/*',
  'path-exclude=/usr/share/locale/*',
]
/** In the order in which they are loaded, for the disks and the overlay of them. */
const EARLY_MODULES = [
  ...['virtio_ring', 'virtio', 'virtio_pci_legacy_dev', 'virtio_pci_modern_dev', 'virtio_pci', 'virtio_blk'],
  ...['libcrc32c', 'erofs', 'overlay'],
]
/** Loaded by init where the machine's systemd would. */
const MODULES = [
  'kvm-amd',
  'tun',
  'loop',
  'br_netfilter',
  'inet_diag',
  'tcp_diag',
  'unix_diag',
  'netlink_diag',
]

/** Makes it unless it is in `cacheDir`: about a minute. @param packages what it has besides */
export async function ensureMachineImage(
  cacheDir: string,
  packages: readonly string[],
  say: (line: string) => void,
): Promise<MachineImage> {
  const kernel = await kernelPackage()
  const wanted = [...PACKAGES, ...packages]
  const dir = join(cacheDir, `machine-${imageKey(kernel, wanted)}`)
  if (!existsSync(dir)) {
    const draft = `${dir}.${process.pid}`
    rmSync(draft, { recursive: true, force: true })
    mkdirSync(draft, { recursive: true })
    try {
      await buildImage(draft, kernel, wanted, say)
      renameSync(draft, dir)
    } finally {
      rmSync(draft, { recursive: true, force: true })
    }
  }
  return {
    kernelPath: join(dir, 'vmlinuz'),
    initramfsPath: join(dir, 'initramfs'),
    rootPath: join(dir, 'root.erofs'),
  }
}

/** The package that holds the newest kernel, e.g. linux-image-6.1.0-56-cloud-amd64. */
async function kernelPackage(): Promise<string> {
  const depends = await runCommand(['apt-cache', 'depends', KERNEL_PACKAGE])
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1]
  if (!name) throw new Error(`apt knows no ${KERNEL_PACKAGE}: run 'apt-get update'`)
  return name
}

function imageKey(kernel: string, packages: readonly string[]): string {
  const hash = createHash('sha256').update(JSON.stringify([kernel, packages, EARLY_MODULES, MODULES]))
  for (const name of ['initramfs-init', 'machine-init']) hash.update(readFileSync(scriptPath(name)))
  hash.update(readFileSync(import.meta.filename))
  return hash.digest('hex').slice(0, 16)
}

const scriptPath = (name: string): string => join(import.meta.dirname, 'machine', name)

async function buildImage(
  dir: string,
  kernel: string,
  packages: readonly string[],
  say: (line: string) => void,
): Promise<void> {
  say(`Installing Debian ${SUITE} for the emulated machine`)
  const root = join(dir, 'root')
  await runCommand([
    ...['mmdebstrap', '--quiet', '--mode=root', '--variant=minbase', '--format=directory'],
    `--include=${packages.join(',')}`,
    ...DPKG_OPTIONS.map((option) => `--dpkgopt=${option}`),
    ...[SUITE, root],
  ])
  say(`Unpacking ${kernel}`)
  await runCommand(['apt-get', 'download', '-q', kernel], { cwd: dir })
  const archive = readdirSync(dir).find((name) => name.endsWith('.deb'))!
  // Not into the root: the archive's own /lib would take the place of Debian's link to /usr/lib.
  const unpacked = join(dir, 'kernel')
  await runCommand(['dpkg', '-x', join(dir, archive), unpacked])
  const version = readdirSync(join(unpacked, 'lib/modules'))[0]!
  copyFileSync(join(unpacked, 'boot', `vmlinuz-${version}`), join(dir, 'vmlinuz'))
  renameSync(join(unpacked, 'lib/modules'), join(root, 'usr/lib/modules'))
  rmSync(unpacked, { recursive: true, force: true })
  await runCommand(['chroot', root, '/sbin/depmod', version])
  writeFileSync(join(root, 'etc/machine-modules'), `${MODULES.join('\n')}\n`)
  copyFileSync(scriptPath('machine-init'), join(root, 'sbin/machine-init'))
  chmodSync(join(root, 'sbin/machine-init'), 0o755)
  for (const name of ['repo', 'images', 'state']) mkdirSync(join(root, name), { recursive: true })
  await buildInitramfs(dir, join(root, 'usr/lib/modules', version))
  await runCommand(['mkfs.erofs', '--quiet', '-zlz4', join(dir, 'root.erofs'), root])
  rmSync(root, { recursive: true, force: true })
  rmSync(join(dir, archive))
}

async function buildInitramfs(dir: string, modulesDir: string): Promise<void> {
  const root = join(dir, 'initramfs-root')
  for (const name of ['bin', 'modules', 'proc', 'dev', 'lower', 'over', 'root'])
    mkdirSync(join(root, name), { recursive: true })
  copyFileSync('/usr/bin/busybox', join(root, 'bin/busybox'))
  const found = readdirSync(modulesDir, { recursive: true, encoding: 'utf8' })
  const order: string[] = []
  for (const module of EARLY_MODULES) {
    const path = found.find((each) => basename(each) === `${module}.ko`)
    // What is built into the kernel has no file.
    if (!path) continue
    copyFileSync(join(modulesDir, path), join(root, 'modules', `${module}.ko`))
    order.push(`${module}.ko`)
  }
  writeFileSync(join(root, 'modules/order'), `${order.join('\n')}\n`)
  copyFileSync(scriptPath('initramfs-init'), join(root, 'init'))
  chmodSync(join(root, 'init'), 0o755)
  await runCommand(['sh', '-c', `find . | cpio --quiet -o -H newc > ../initramfs`], { cwd: root })
  rmSync(root, { recursive: true, force: true })
}
