/** What a guest needs of Debian's cloud kernel: the package is downloaded and unpacked, never installed. */
import { globSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { gunzipSync, zstdDecompressSync } from 'node:zlib'
import { run } from '../../../linux/process.ts'
import { kernelName, type ServedKernel } from './kernel-source.ts'

const DOWNLOAD_WITHIN_MS = 600_000
const LARGEST_KERNEL_BYTES = 256 * 2 ** 20

/** What the guest's devices and file systems need, without what those need in turn. */
const MODULES = [
  'virtio_mmio',
  'virtio_pci',
  'virtio_blk',
  'virtio_net',
  'virtio_rng',
  'virtio_balloon',
  'erofs',
  'overlay',
] as const

export interface KernelPackage {
  /** e.g. linux-image-6.1.0-56-cloud-amd64 6.1.192-2 */
  name: string
  /** Root of the unpacked package. */
  directory: string
}

export interface KernelModule {
  name: string
  content: Buffer
}

/**
 * Downloads and unpacks a kernel package.
 * @param directory empty; gets the package and its files
 * @throws CommandError with apt's words
 */
export async function fetchKernelPackage(
  kernel: ServedKernel,
  directory: string,
  progress: (line: string) => void = () => {},
): Promise<KernelPackage> {
  const { packageName, version } = kernel
  progress(`downloading ${packageName}`)
  await run('apt-get', ['download', '-q', `${packageName}=${version}`], {
    cwd: directory,
    timeoutMs: DOWNLOAD_WITHIN_MS,
  })
  const file = readdirSync(directory).find(
    (entry) => entry.startsWith(`${packageName}_`) && entry.endsWith('.deb'),
  )
  if (!file) throw new Error(`apt-get download left no ${packageName}_*.deb`)
  const root = join(directory, 'files')
  mkdirSync(root)
  await run('dpkg', ['-x', join(directory, file), root], { timeoutMs: DOWNLOAD_WITHIN_MS })
  return { name: kernelName(kernel), directory: root }
}

/** The kernel as an ELF image, which both monitors take: the payload of the package's compressed one. */
export async function kernelImage({ directory }: KernelPackage): Promise<Buffer> {
  const [path] = globSync(join(directory, 'boot/vmlinuz-*'))
  if (!path) throw new Error(`${directory} has no boot/vmlinuz-*`)
  const image = await decompressed(payloadOf(readFileSync(path)))
  if (image.subarray(0, 4).toString('latin1') !== '\x7fELF') throw new Error(`${path} holds no ELF kernel`)
  return image
}

/** Where the boot protocol's header says that the compressed kernel lies. */
function payloadOf(image: Buffer): Buffer {
  const setupSectors = image.readUInt8(0x1f1)
  const start = (setupSectors + 1) * 512 + image.readUInt32LE(0x248)
  return image.subarray(start, start + image.readUInt32LE(0x24c))
}

async function decompressed(payload: Buffer): Promise<Buffer> {
  const magic = payload.subarray(0, 6).toString('hex')
  if (magic.startsWith('1f8b')) return gunzipSync(payload, { maxOutputLength: LARGEST_KERNEL_BYTES })
  if (magic.startsWith('28b52ffd')) return zstdDecompressSync(trimmed(payload))
  if (magic.startsWith('02214c18')) return filtered('lz4', ['-dc'], payload)
  if (magic.startsWith('fd377a585a00')) return filtered('xz', ['-dc', '--single-stream'], payload)
  throw new Error(`the kernel is compressed in an unknown way (${magic})`)
}

/** The last four bytes are the uncompressed size. */
const trimmed = (payload: Buffer): Buffer => payload.subarray(0, -4)

/** These programs complain of the size that follows their data, after they have written everything. */
function filtered(command: string, args: readonly string[], input: Buffer): Promise<Buffer> {
  return runFilter(command, args, trimmed(input))
}

async function runFilter(command: string, args: readonly string[], input: Buffer): Promise<Buffer> {
  const { spawn } = await import('node:child_process')
  const { buffer } = await import('node:stream/consumers')
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'ignore'] })
  const ended = new Promise<void>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) =>
      status === 0 ? resolve() : reject(new Error(`${command} ended with status ${status}`)),
    )
  })
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const [output] = await Promise.all([buffer(child.stdout), ended])
  return output
}

/**
 * The modules of the guest with all they depend on, each after those. What the package does not have as a module is
 * part of its kernel.
 */
export async function kernelModules({ directory }: KernelPackage): Promise<KernelModule[]> {
  const paths = new Map(
    globSync(join(directory, '{,usr/}lib/modules/*/kernel/**/*.ko{,.xz,.zst}')).map((path) => [
      moduleName(path),
      path,
    ]),
  )
  const loaded = new Map<string, KernelModule>()
  const add = async (name: string): Promise<void> => {
    const path = paths.get(name)
    if (!path || loaded.has(name)) return
    const content = await moduleContent(path)
    for (const needed of dependencies(content)) await add(needed)
    loaded.set(name, { name, content })
  }
  for (const name of MODULES) await add(name)
  if (!loaded.has('erofs') || !loaded.has('overlay')) throw new Error(`${directory} lacks erofs or overlay`)
  return [...loaded.values()]
}

/** Hyphens and underscores are the same in module names. */
const moduleName = (path: string): string =>
  basename(path)
    .replace(/\.ko(\..*)?$/, '')
    .replaceAll('-', '_')

async function moduleContent(path: string): Promise<Buffer> {
  const content = readFileSync(path)
  if (path.endsWith('.xz')) return runFilter('xz', ['-dc'], content)
  if (path.endsWith('.zst')) return zstdDecompressSync(content)
  return content
}

/** From the `depends=` entry of the section `.modinfo`. */
function dependencies(content: Buffer): string[] {
  const at = content.indexOf('\0depends=')
  if (at < 0) return []
  const start = at + '\0depends='.length
  const list = content.subarray(start, content.indexOf(0, start)).toString('latin1')
  return list
    .split(',')
    .filter(Boolean)
    .map((name) => name.replaceAll('-', '_'))
}
