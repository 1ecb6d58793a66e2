import { BOOT_ID_FILE, MEMORY_INFO_FILE } from '../boot-files.ts'
import { type BundleOptions, bindMount, ociConfig, ROOT_CAPABILITIES } from '../bundle.ts'

/**
 * What root inside a sandbox can do. All of it is checked by the sentry, the kernel in user space that the sandbox
 * talks to; none of it is a capability on this machine. CAP_SYS_ADMIN lets root mount file systems of the sentry and
 * lets the agent set the host name of a sandbox that was started ahead.
 */
const CAPABILITIES = [...ROOT_CAPABILITIES, 'CAP_SYS_ADMIN', 'CAP_SYS_NICE', 'CAP_SYS_PTRACE']

export interface GvisorBundleOptions extends BundleOptions {
  /** Undefined makes a network namespace of its own, with nothing in it. */
  netnsPath: string | undefined
  /** Size of `/dev/shm`. */
  sharedMemoryMib: number
}

/**
 * The OCI configuration of one sandbox. The sandbox process and its file server run in a user namespace of the slot's
 * ids: what breaks out of the sentry is nobody on this machine.
 */
export function bundleConfig(options: GvisorBundleOptions): object {
  const { rootPath, netnsPath } = options
  return ociConfig(options, {
    capabilities: CAPABILITIES,
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs' },
      { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['ro', 'nosuid', 'noexec', 'nodev'] },
      // The agent limits the processes there. A bomb then meets the sentry's limit, not the machine's, which ends all.
      {
        destination: '/sys/fs/cgroup',
        type: 'cgroup',
        source: 'cgroup',
        options: ['nosuid', 'noexec', 'nodev'],
      },
      // Half of what there is, as on any machine: what lies there is of no process that could be ended.
      {
        destination: '/dev/shm',
        type: 'tmpfs',
        source: 'tmpfs',
        options: ['nosuid', 'nodev', 'mode=1777', `size=${options.sharedMemoryMib}m`],
      },
      // Clones of one snapshot have different boot ids: the agent rewrites the file after each start.
      bindMount(rootPath + BOOT_ID_FILE, '/proc/sys/kernel/random/boot_id', 'ro'),
      // The sentry shows the machine's memory, from which programs would choose their sizes.
      bindMount(rootPath + MEMORY_INFO_FILE, '/proc/meminfo', 'ro'),
    ],
    namespaces: [{ type: 'network', ...(netnsPath === undefined ? {} : { path: netnsPath }) }],
    linux: {},
  })
}
