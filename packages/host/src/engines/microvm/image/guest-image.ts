/** Kernel and initramfs of every microVM: built at set-up, named by their bytes, shared by all instances. */
import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { run } from '../../../linux/process.ts'
import { UNFINISHED } from '../../unfinished.ts'
import { type ArchiveFile, cpioArchive } from './cpio.ts'
import { fetchKernelPackage, type KernelModule, kernelImage, kernelModules } from './kernel-package.ts'
import { kernelName, servedKernel } from './kernel-source.ts'

const NATIVE = join(import.meta.dirname, '../../../../native')
const GUEST_INIT = ['guest-init.c', 'guest-export.c'].map((name) => join(NATIVE, name))
const SOURCES = [
  ...[...GUEST_INIT, join(NATIVE, 'guest-export.h')],
  ...['guest-image.ts', 'kernel-package.ts', 'kernel-source.ts', 'cpio.ts'],
]
/** Says which image is in use. */
const CURRENT = 'current.json'

export interface GuestImage {
  /** Of kernel and initramfs together. */
  digest: string
  /** Package and version of the kernel. */
  kernel: string
  /** An ELF image with a PVH entry. */
  kernelPath: string
  initramfsPath: string
}

export interface GuestImageOptions {
  /** `microvm` in the images directory; gets `<digest>/` and `current.json`. */
  directory: string
  /** Of the kernel, e.g. 6.1; default the newest that apt serves. */
  kernelSeries?: string
  progress?: (line: string) => void
}

/**
 * Builds the guest's kernel and initramfs from Debian's cloud kernel and native/guest-*.c, and makes them the ones in use;
 * leaves alone what is of today. Takes seconds and a download of up to 40 MB. Equal inputs give equal bytes.
 * @throws CommandError of apt, dpkg, gcc or a decompressor
 */
export async function buildGuestImage(options: GuestImageOptions): Promise<GuestImage> {
  const { directory, kernelSeries = '', progress = () => {} } = options
  const served = await servedKernel(kernelSeries)
  const current = currentGuestImage(directory)
  if (current?.kernel === kernelName(served)) return current
  mkdirSync(directory, { recursive: true })
  const work = mkdtempSync(join(tmpdir(), 'guest-image-'))
  try {
    const kernelPackage = await fetchKernelPackage(served, work, progress)
    progress('unpacking the kernel')
    const kernel = await kernelImage(kernelPackage)
    const modules = await kernelModules(kernelPackage)
    progress('compiling the first process of guests')
    const initramfs = cpioArchive(initramfsFiles(await compileGuestInit(work), modules))
    return publish(directory, kernelPackage.name, kernel, initramfs)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

interface CurrentImage {
  digest: string
  kernel: string
  /** What it was built by. */
  sources: string
}

/** The image in use; undefined before one was built from the sources as they are now. */
export function currentGuestImage(directory: string): GuestImage | undefined {
  const path = join(directory, CURRENT)
  if (!existsSync(path)) return undefined
  const { digest, kernel, sources } = JSON.parse(readFileSync(path, 'utf8')) as CurrentImage
  if (sources !== sourcesDigest()) return undefined
  const image = imageAt(directory, digest, kernel)
  return existsSync(image.kernelPath) && existsSync(image.initramfsPath) ? image : undefined
}

function sourcesDigest(): string {
  const hash = createHash('sha256')
  for (const name of SOURCES) hash.update(readFileSync(resolve(import.meta.dirname, name)))
  return hash.digest('hex')
}

const imageAt = (directory: string, digest: string, kernel: string): GuestImage => ({
  digest,
  kernel,
  kernelPath: join(directory, digest, 'vmlinux'),
  initramfsPath: join(directory, digest, 'initramfs.cpio'),
})

async function compileGuestInit(work: string): Promise<Buffer> {
  const path = join(work, 'guest-init')
  // A build id would differ from linker to linker, and says nothing here.
  const flags = ['-static', '-Os', '-s', '-Wall', '-Wextra', '-Werror', '-Wl,--build-id=none']
  await run('gcc', [...flags, '-o', path, ...GUEST_INIT])
  return readFileSync(path)
}

function initramfsFiles(init: Buffer, modules: readonly KernelModule[]): ArchiveFile[] {
  const paths = modules.map(({ name }) => `lib/${name}.ko`)
  return [
    { path: 'init', content: init, mode: 0o755 },
    { path: 'lib', mode: 0o755 },
    ...modules.map(({ content }, at): ArchiveFile => ({ path: paths[at]!, content, mode: 0o644 })),
    { path: 'modules', content: Buffer.from(paths.map((path) => `/${path}\n`).join('')), mode: 0o644 },
  ]
}

/** One rename each: a reader sees a whole image or none. */
function publish(directory: string, kernelName: string, kernel: Buffer, initramfs: Buffer): GuestImage {
  const digest = createHash('sha256').update(kernel).update(initramfs).digest('hex')
  const image = imageAt(directory, digest, kernelName)
  if (!existsSync(join(directory, digest))) {
    const unfinished = mkdtempSync(join(directory, UNFINISHED))
    writeFileSync(join(unfinished, 'vmlinux'), kernel, { mode: 0o444 })
    writeFileSync(join(unfinished, 'initramfs.cpio'), initramfs, { mode: 0o444 })
    chmodSync(unfinished, 0o755)
    renameSync(unfinished, join(directory, digest))
  }
  const record = join(directory, `${CURRENT}.${process.pid}`)
  const current: CurrentImage = { digest, kernel: kernelName, sources: sourcesDigest() }
  writeFileSync(record, `${JSON.stringify(current)}\n`)
  renameSync(record, join(directory, CURRENT))
  return image
}
