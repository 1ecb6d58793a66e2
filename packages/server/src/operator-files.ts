import { join } from 'node:path'
import type { Config } from './config.ts'

/** Files of the state directory that the operator's clients need. */

type Place = Pick<Config, 'stateDir'>

/** The operator's own API key; readable by root alone. */
export const keyPath = ({ stateDir }: Place): string => join(stateDir, 'api-key')

/** The bundle that holds the machine's CAs and the local one. */
export const bundlePath = ({ stateDir }: Place): string => join(stateDir, 'tls', 'bundle.pem')
