import { networkInterfaces } from 'node:os'
import { setFlagsFromString } from 'node:v8'
import { ENVD_PORT } from '@sandbox/contract/ports'
import { startAgent } from './agent.ts'

/**
 * The agent's process inside a sandbox. `init` starts it without arguments; for development
 * `main.ts [port] [host] [native directory] [root directory]`.
 */

const STANDARD_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
const NEW_FILE_MASK = 0o022
const INTERFACE = 'eth0'

// What was compiled before the capture stays compiled in every clone.
setFlagsFromString('--no-flush-bytecode')
process.umask(NEW_FILE_MASK)
const [port, host, nativeDir, rootDir] = process.argv.slice(2)
const address = networkInterfaces()[INTERFACE]?.find(({ family }) => family === 'IPv4')?.address
await startAgent({
  port: port === undefined ? ENVD_PORT : Number(port),
  host: host ?? '0.0.0.0',
  nativeDir: nativeDir ?? '/.e2b/bin',
  rootDir: rootDir ?? '/',
  path: process.env.PATH ?? STANDARD_PATH,
  defaultUser: 'root',
  ...(address && rootDir === undefined ? { forwardAddress: address } : {}),
  log: (line) => process.stdout.write(`${line}\n`),
})
