import { statfsSync } from 'node:fs'

export interface FileSystemInfo {
  /** `btrfs`, `tmpfs`, `overlay`, ...; the magic number in hex for one not listed here. */
  type: string
  sizeBytes: number
  /** What an unprivileged writer may still use. */
  availableBytes: number
}

const typeByMagic = new Map<number, string>([
  [0x9123683e, 'btrfs'],
  [0x01021994, 'tmpfs'],
  [0xef53, 'ext4'],
  [0x58465342, 'xfs'],
  [0x794c7630, 'overlay'],
  [0xe0f5e1e2, 'erofs'],
  [0x63677270, 'cgroup2'],
  [0x27e0eb, 'cgroup'],
  [0x62656572, 'sysfs'],
  [0x9fa0, 'proc'],
  [0x6e736673, 'nsfs'],
  [0x73717368, 'squashfs'],
  [0x6969, 'nfs'],
])

/** statfs(2) of the file system that holds `path`. */
export function fileSystemOf(path: string): FileSystemInfo {
  const stats = statfsSync(path)
  const magic = stats.type >>> 0
  return {
    type: typeByMagic.get(magic) ?? `0x${magic.toString(16)}`,
    sizeBytes: stats.blocks * stats.bsize,
    availableBytes: stats.bavail * stats.bsize,
  }
}
