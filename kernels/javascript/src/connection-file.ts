/** The file in which Jupyter tells a kernel where to listen. */
import { readFileSync } from 'node:fs'
import type { ZmtpEndpoint } from '@sandbox/contract/zmtp'

export type PortName = 'shell_port' | 'iopub_port' | 'stdin_port' | 'control_port' | 'hb_port'

export interface ConnectionInfo {
  key: string
  endpoint(port: PortName): ZmtpEndpoint
}

/** Throws when the file is missing or is not one. */
export function readConnectionFile(path: string): ConnectionInfo {
  const file: Record<string, string | number> = JSON.parse(readFileSync(path, 'utf8'))
  const { transport, ip, key } = file
  return {
    key: String(key ?? ''),
    endpoint: (port) =>
      transport === 'ipc' ? { path: `${ip}-${file[port]}` } : { host: String(ip), port: Number(file[port]) },
  }
}
