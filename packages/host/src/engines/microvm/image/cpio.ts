/** An initramfs: an archive in cpio's `newc` format whose bytes depend on nothing but the files in it. */

export interface ArchiveFile {
  /** Without a leading slash; its directories come before it in the list. */
  path: string
  /** Undefined is a directory. */
  content?: Buffer
  /** Permission bits. */
  mode: number
}

const DIRECTORY = 0o040000
const REGULAR = 0o100000
const ALIGNMENT = 4

/** Owned by root, dated 1970, inode numbers by position. */
export function cpioArchive(files: readonly ArchiveFile[]): Buffer {
  const end = { path: 'TRAILER!!!', mode: 0, isEnd: true }
  return Buffer.concat([...files.map((file, at) => record(file, at + 1)), record(end, 0)])
}

function record(file: ArchiveFile & { isEnd?: boolean }, inode: number): Buffer {
  const content = file.content ?? Buffer.alloc(0)
  const kind = file.isEnd ? 0 : file.content ? REGULAR : DIRECTORY
  const name = Buffer.from(`${file.path}\0`)
  const links = file.content || file.isEnd ? 1 : 2
  const fields = [inode, kind | file.mode, 0, 0, links, 0, content.length, 0, 0, 0, 0, name.length, 0]
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`
  return Buffer.concat([padded(Buffer.concat([Buffer.from(header), name])), padded(content)])
}

const padded = (bytes: Buffer): Buffer =>
  Buffer.concat([bytes, Buffer.alloc((ALIGNMENT - (bytes.length % ALIGNMENT)) % ALIGNMENT)])
