import { BOOT_ID_FILE, EMPTY_DIRECTORY, EMPTY_FILE, MEMORY_INFO_FILE, SHARED_MEMORY } from '../boot-files.ts'
import { type BundleOptions, bindMount, type OciMount, ociConfig, ROOT_CAPABILITIES } from '../bundle.ts'
import { seccompProfile } from './seccomp.ts'

/**
 * What root inside a sandbox can do to its own files, users and processes. All of it is confined to the sandbox's
 * user namespace; nothing here means anything to the host, to other sandboxes or to the network namespace.
 */
const CAPABILITIES = [
  ...ROOT_CAPABILITIES,
  // Gives nothing, the network namespace being the host's; but without it a ping that carries it cannot be executed.
  'CAP_NET_RAW',
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

export interface ContainerBundleOptions extends BundleOptions {
  /** Where the slot's own read-only sysfs is mounted when the runtime looks. */
  sysfsPath: string
  /** The machine's directory of harmless devices; see `devices.ts`. */
  devicesPath: string
  /** Says whether a path exists on this machine: what a kernel does not have needs no mask. */
  exists: (path: string) => boolean
}

/**
 * The OCI configuration of one sandbox. Every mount costs restore time, so: the devices come in one
 * mount, `/tmp`, `/run` and `/dev/shm` lie on the disk-capped root instead of tmpfs (whose content
 * would be copied into every memory snapshot), and masks are binds of the root instead of file systems of their own.
 */
export function bundleConfig(options: ContainerBundleOptions): object {
  return ociConfig(options, {
    capabilities: CAPABILITIES,
    mounts: mounts(options),
    // No network and cgroup namespace here: the runtime is started inside those of the slot.
    namespaces: [],
    linux: {
      rootfsPropagation: 'private',
      maskedPaths: [],
      readonlyPaths: READ_ONLY_PATHS,
      seccomp: seccompProfile(),
    },
  })
}

function mounts(options: ContainerBundleOptions): OciMount[] {
  const inRoot = (path: string) => options.rootPath + path
  return [
    { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
    bindMount(options.sysfsPath, '/sys', 'ro', 'nosuid', 'noexec', 'nodev'),
    // A bind of /dev tells the runtime to add no device of its own, with a mount for each.
    bindMount(options.devicesPath, '/dev', 'ro', 'nosuid', 'noexec'),
    bindMount(inRoot(SHARED_MEMORY), SHARED_MEMORY, 'nosuid', 'nodev'),
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', 'gid=5'],
    },
    { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] },
    // Clones of one snapshot have different boot ids: the agent rewrites the file after each start.
    bindMount(inRoot(BOOT_ID_FILE), '/proc/sys/kernel/random/boot_id', 'ro', 'nosuid', 'noexec', 'nodev'),
    // The kernel shows the machine's memory, from which programs would choose their sizes.
    bindMount(inRoot(MEMORY_INFO_FILE), '/proc/meminfo', 'ro', 'nosuid', 'noexec', 'nodev'),
    ...MASKED_FILES.filter(options.exists).map((path) =>
      bindMount(inRoot(EMPTY_FILE), path, 'ro', 'nosuid', 'noexec', 'nodev'),
    ),
    ...MASKED_DIRECTORIES.filter(options.exists).map((path) =>
      bindMount(inRoot(EMPTY_DIRECTORY), path, 'ro', 'nosuid', 'noexec', 'nodev'),
    ),
  ]
}
