/**
 * What root inside a sandbox can do. All of it is checked by the sentry, the kernel in user space that the sandbox
 * talks to; none of it is a capability on this machine. CAP_SYS_ADMIN lets root mount file systems of the sentry and
 * lets the agent set the host name of a sandbox that was started ahead.
 */
const CAPABILITIES = [
  'CAP_AUDIT_WRITE',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_NET_BIND_SERVICE',
  'CAP_SETFCAP',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETUID',
  'CAP_SYS_ADMIN',
  'CAP_SYS_CHROOT',
  'CAP_SYS_NICE',
  'CAP_SYS_PTRACE',
]

export interface BundleOptions {
  /** Mounted root file system. */
  rootPath: string
  /** Paths inside the root of the files that stand before the sentry's own: boot id and memory. */
  bootIdFile: string
  memoryInfoFile: string
  /** Undefined makes a network namespace of its own, with nothing in it. */
  netnsPath: string | undefined
  hostname: string
  /** Ids 0 to `idCount - 1` inside are `uidBase` and above outside. */
  uidBase: number
  idCount: number
  initCommand: readonly string[]
  openFilesMax: number
}

/**
 * The OCI configuration of one sandbox. The sandbox process and its file server run in a user namespace of the slot's
 * ids: what breaks out of the sentry is nobody on this machine.
 */
export function bundleConfig(options: BundleOptions): object {
  const mapping = [{ containerID: 0, hostID: options.uidBase, size: options.idCount }]
  const { netnsPath } = options
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: options.initCommand,
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'],
      cwd: '/',
      capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
      noNewPrivileges: false,
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: options.openFilesMax, hard: options.openFilesMax },
        { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
      ],
    },
    root: { path: options.rootPath, readonly: false },
    hostname: options.hostname,
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs' },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro', 'nosuid', 'noexec', 'nodev'] },
      // Clones of one snapshot have different boot ids: the agent rewrites the file after each start.
      bind(options.rootPath + options.bootIdFile, '/proc/sys/kernel/random/boot_id'),
      // The sentry shows the machine's memory, from which programs would choose their sizes.
      bind(options.rootPath + options.memoryInfoFile, '/proc/meminfo'),
    ],
    linux: {
      namespaces: [
        ...['user', 'pid', 'mount', 'ipc', 'uts'].map((type) => ({ type })),
        { type: 'network', ...(netnsPath === undefined ? {} : { path: netnsPath }) },
      ],
      uidMappings: mapping,
      gidMappings: mapping,
    },
  }
}

const bind = (source: string, destination: string) => ({
  destination,
  type: 'bind',
  source,
  options: ['bind', 'ro'],
})
