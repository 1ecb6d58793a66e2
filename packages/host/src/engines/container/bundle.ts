import { seccompProfile } from './seccomp.ts'

/**
 * What root inside a sandbox can do to its own files, users and processes. All of it is confined to the sandbox's
 * user namespace; nothing here means anything to the host, to other sandboxes or to the network namespace.
 */
const CAPABILITIES = [
  'CAP_AUDIT_WRITE',
  'CAP_CHOWN',
  'CAP_DAC_OVERRIDE',
  'CAP_FOWNER',
  'CAP_FSETID',
  'CAP_KILL',
  'CAP_NET_BIND_SERVICE',
  // Gives nothing, the network namespace being the host's; but without it a ping that carries it cannot be executed.
  'CAP_NET_RAW',
  'CAP_SETFCAP',
  'CAP_SETGID',
  'CAP_SETPCAP',
  'CAP_SETUID',
  'CAP_SYS_CHROOT',
]

/** Files that tell about the machine: an empty file stands before them. */
const MASKED_FILES = [
  '/proc/kcore',
  '/proc/keys',
  '/proc/timer_list',
  '/proc/sched_debug',
  '/proc/interrupts',
]
/** Directories that tell about the machine: an empty directory stands before them. */
const MASKED_DIRECTORIES = [
  '/proc/acpi',
  '/proc/scsi',
  '/proc/asound',
  '/sys/firmware',
  '/sys/devices/virtual/powercap',
]
const READ_ONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger']

/** Ids 0 to 65,535 inside are `uidBase` to `uidBase + 65,535` outside. */
export const IDS_PER_SLOT = 65_536

/** Paths inside the root that the engine makes before a cold boot; see `boot-files.ts`. */
export const BOOT_ID_FILE = '/run/e2b/boot_id'
export const MEMORY_INFO_FILE = '/run/e2b/meminfo'
export const EMPTY_DIRECTORY = '/run/e2b/mask/directory'
export const EMPTY_FILE = '/run/e2b/mask/file'
export const SHARED_MEMORY = '/dev/shm'

export interface BundleOptions {
  /** Mounted root file system. */
  rootPath: string
  /** Where the slot's own read-only sysfs is mounted when the runtime looks. */
  sysfsPath: string
  /** The machine's directory of harmless devices; see `devices.ts`. */
  devicesPath: string
  hostname: string
  uidBase: number
  /** First process and its arguments, inside the root. */
  initCommand: readonly string[]
  /** Highest number of open files one process may ask for; not above what this process may set. */
  openFilesMax: number
  /** Says whether a path exists on this machine: what a kernel does not have needs no mask. */
  exists: (path: string) => boolean
}

interface OciMount {
  destination: string
  type: string
  source: string
  options: string[]
}

/**
 * The OCI configuration of one sandbox. Every mount costs restore time, so: the devices come in one
 * mount, `/tmp`, `/run` and `/dev/shm` lie on the disk-capped root instead of tmpfs (whose content
 * would be copied into every memory snapshot), and masks are binds of the root instead of file systems of their own.
 */
export function bundleConfig(options: BundleOptions): object {
  const mapping = [{ containerID: 0, hostID: options.uidBase, size: IDS_PER_SLOT }]
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: options.initCommand,
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'],
      cwd: '/',
      capabilities: { bounding: CAPABILITIES, effective: CAPABILITIES, permitted: CAPABILITIES },
      // sudo must work inside; the user namespace and the filter hold without it.
      noNewPrivileges: false,
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: options.openFilesMax, hard: options.openFilesMax },
        { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
      ],
    },
    root: { path: options.rootPath, readonly: false },
    hostname: options.hostname,
    mounts: mounts(options),
    linux: {
      // No network and cgroup namespace here: the runtime is started inside those of the slot.
      namespaces: [{ type: 'user' }, { type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }],
      uidMappings: mapping,
      gidMappings: mapping,
      rootfsPropagation: 'private',
      maskedPaths: [],
      readonlyPaths: READ_ONLY_PATHS,
      seccomp: seccompProfile(),
    },
  }
}

function mounts(options: BundleOptions): OciMount[] {
  const inRoot = (path: string) => options.rootPath + path
  const bind = (source: string, destination: string, ...more: string[]): OciMount => ({
    destination,
    type: 'bind',
    source,
    options: ['bind', ...more],
  })
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    bind(options.sysfsPath, '/sys', 'ro', 'nosuid', 'noexec', 'nodev'),
    // A bind of /dev tells the runtime to add no device of its own, with a mount for each.
    bind(options.devicesPath, '/dev', 'ro', 'nosuid', 'noexec'),
    bind(inRoot(SHARED_MEMORY), SHARED_MEMORY, 'nosuid', 'nodev'),
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    // Clones of one snapshot have different boot ids: the agent rewrites the file after each start.
    bind(inRoot(BOOT_ID_FILE), '/proc/sys/kernel/random/boot_id', 'ro', 'nosuid', 'noexec', 'nodev'),
    // The kernel shows the machine's memory, from which programs would choose their sizes.
    bind(inRoot(MEMORY_INFO_FILE), '/proc/meminfo', 'ro', 'nosuid', 'noexec', 'nodev'),
    ...MASKED_FILES.filter(options.exists).map((path) =>
      bind(inRoot(EMPTY_FILE), path, 'ro', 'nosuid', 'noexec', 'nodev'),
    ),
    ...MASKED_DIRECTORIES.filter(options.exists).map((path) =>
      bind(inRoot(EMPTY_DIRECTORY), path, 'ro', 'nosuid', 'noexec', 'nodev'),
    ),
  ]
}
