import { existsSync, readFileSync, statfsSync } from 'node:fs'
import { release, totalmem } from 'node:os'

/** One requirement of this machine, its verdict, and what to change where it is not met. */
export interface Requirement {
  name: string
  ok: boolean
  /** A machine that fails a required one cannot run sandboxes. */
  required: boolean
  detail: string
  remedy: string
}

const MIN_KERNEL = [5, 19] as const
const MIN_DISK_GIB = 6

function kernelNewEnough(): boolean {
  const [major = 0, minor = 0] = release()
    .split('.')
    .map((part) => Number.parseInt(part, 10))
  return major > MIN_KERNEL[0] || (major === MIN_KERNEL[0] && minor >= MIN_KERNEL[1])
}

function readNumber(path: string): number {
  try {
    return Number(readFileSync(path, 'utf8'))
  } catch {
    return Number.NaN
  }
}

function nearestExisting(path: string): string {
  let current = path
  while (!existsSync(current)) current = current.slice(0, current.lastIndexOf('/')) || '/'
  return current
}

function distribution(): { id: string; version: number; name: string } {
  const fields = new Map<string, string>()
  try {
    for (const line of readFileSync('/etc/os-release', 'utf8').split('\n')) {
      const at = line.indexOf('=')
      if (at > 0) fields.set(line.slice(0, at), line.slice(at + 1).replaceAll('"', ''))
    }
  } catch {
    // A machine without os-release is reported as unknown.
  }
  return {
    id: fields.get('ID') ?? 'unknown',
    version: Number(fields.get('VERSION_ID') ?? 0),
    name: fields.get('PRETTY_NAME') ?? 'unknown',
  }
}

/** Checks what no package can bring. Cheap: a few file reads. */
export function checkRequirements(stateDir: string): Requirement[] {
  const system = distribution()
  const userNamespaces = readNumber('/proc/sys/user/max_user_namespaces')
  const disk = statfsSync(nearestExisting(stateDir))
  const freeGib = (disk.bavail * disk.bsize) / 2 ** 30
  const filesystems = readFileSync('/proc/filesystems', 'utf8')
  const known = (name: string): boolean => filesystems.includes(`\t${name}\n`)
  const supported =
    (system.id === 'debian' && (system.version >= 12 || Number.isNaN(system.version))) ||
    (system.id === 'ubuntu' && system.version >= 24.04)
  return [
    {
      name: 'root',
      ok: process.getuid?.() === 0,
      required: true,
      detail: `uid ${process.getuid?.()}`,
      remedy: 'Run this as root: sandboxes need namespaces, mounts and firewall rules.',
    },
    {
      name: 'distribution',
      ok: supported,
      required: true,
      detail: system.name,
      remedy: 'Use Debian 12 or newer, or Ubuntu 24.04.',
    },
    {
      name: 'architecture',
      ok: process.arch === 'x64',
      required: true,
      detail: process.arch,
      remedy: 'Use an x86-64 machine.',
    },
    {
      name: 'kernel',
      ok: kernelNewEnough(),
      required: true,
      detail: release(),
      remedy: `Boot a kernel of at least ${MIN_KERNEL.join('.')}: layers are mounted with shifted ids.`,
    },
    {
      name: 'user namespaces',
      ok: userNamespaces > 0,
      required: true,
      detail: `${userNamespaces} allowed`,
      remedy: 'Allow them: sysctl -w user.max_user_namespaces=65536',
    },
    {
      name: 'disk',
      ok: freeGib >= MIN_DISK_GIB,
      required: true,
      detail: `${freeGib.toFixed(0)} GiB free for ${stateDir}`,
      remedy: `Free ${MIN_DISK_GIB} GiB, or choose another place with E2B_STATE_DIR.`,
    },
    {
      name: 'memory',
      ok: totalmem() >= 2 * 2 ** 30,
      required: false,
      detail: `${(totalmem() / 2 ** 30).toFixed(0)} GiB`,
      remedy: 'Two GiB or more make room for templates to build.',
    },
    ...['overlay', 'erofs', 'btrfs'].map((name) => ({
      name: `file system ${name}`,
      ok: known(name) || existsSync(`/lib/modules/${release()}`),
      required: true,
      detail: known(name) ? 'in the kernel' : 'as a module, loaded on first use',
      remedy: `Use a kernel with ${name}, built in or as a module.`,
    })),
  ]
}

/** One sentence for the first required thing that is missing, or undefined. */
export function firstObstacle(stateDir: string): string | undefined {
  const failed = checkRequirements(stateDir).find((requirement) => requirement.required && !requirement.ok)
  return failed && `This machine cannot run sandboxes: ${failed.name} is ${failed.detail}. ${failed.remedy}`
}
