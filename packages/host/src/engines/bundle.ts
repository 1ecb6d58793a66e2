/** What the OCI bundles of all runtimes have in common. */
import { idsPerSlot } from '../slots/slots.ts'

/** What root inside a sandbox needs for its own files, users and processes. */
export const ROOT_CAPABILITIES = [
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
  'CAP_SYS_CHROOT',
]

export interface BundleOptions {
  /** Mounted root file system. */
  rootPath: string
  hostname: string
  /** Ids 0 to 65,535 inside are `uidBase` to `uidBase + 65,535` outside. */
  uidBase: number
  /** First process and its arguments, inside the root. */
  initCommand: readonly string[]
  /** Highest number of open files one process may ask for; not above what this process may set. */
  openFilesMax: number
}

export interface OciMount {
  destination: string
  type: string
  source: string
  options?: string[]
}

/** What a runtime adds. */
export interface RuntimeParts {
  capabilities: readonly string[]
  mounts: readonly OciMount[]
  /** Namespaces besides ids, processes, mounts, System V objects and names. */
  namespaces: readonly { type: string; path?: string }[]
  /** More of the `linux` section. */
  linux: object
}

/** The OCI configuration of one sandbox. */
export function ociConfig(options: BundleOptions, parts: RuntimeParts): object {
  const mapping = [{ containerID: 0, hostID: options.uidBase, size: idsPerSlot }]
  const { capabilities } = parts
  return {
    ociVersion: '1.0.2',
    process: {
      terminal: false,
      user: { uid: 0, gid: 0 },
      args: options.initCommand,
      env: ['PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', 'HOME=/root'],
      cwd: '/',
      capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
      // sudo must work inside; the user namespace holds without it.
      noNewPrivileges: false,
      rlimits: [
        { type: 'RLIMIT_NOFILE', soft: options.openFilesMax, hard: options.openFilesMax },
        { type: 'RLIMIT_CORE', soft: 0, hard: 0 },
      ],
    },
    root: { path: options.rootPath, readonly: false },
    hostname: options.hostname,
    mounts: parts.mounts,
    linux: {
      namespaces: [...OWN_NAMESPACES.map((type) => ({ type })), ...parts.namespaces],
      uidMappings: mapping,
      gidMappings: mapping,
      ...parts.linux,
    },
  }
}

const OWN_NAMESPACES = ['user', 'pid', 'mount', 'ipc', 'uts']

export const bindMount = (source: string, destination: string, ...more: string[]): OciMount => ({
  destination,
  type: 'bind',
  source,
  options: ['bind', ...more],
})
