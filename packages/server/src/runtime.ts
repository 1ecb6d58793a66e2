import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { writeDurably } from '@sandbox/host/linux/durable'
import { type Config, ConfigError } from './config.ts'

/** What the set-up has built for this machine: programs and the agent's layer. */
export interface Runtime {
  /** Undefined where no usable CRIU could be had: every start is a cold boot. */
  criu: { path: string; kind: 'cow' | 'stock'; version: string; reason?: string } | undefined
  shimPath: string
  agentLayer: { digest: string; inputs: string }
}

/** Version that the agent reports to clients; they enable features by it. */
export const AGENT_VERSION = '0.6.13'

/** Beside the images, so that several instances on one machine share them. */
export const runtimeDir = (config: Pick<Config, 'imagesDir'>): string => join(config.imagesDir, 'runtime')

const runtimePath = (config: Pick<Config, 'imagesDir'>): string => join(runtimeDir(config), 'runtime.json')

/** Undefined before the set-up ran. */
export function readRuntime(config: Pick<Config, 'imagesDir'>): Runtime | undefined {
  const path = runtimePath(config)
  return existsSync(path) ? (JSON.parse(readFileSync(path, 'utf8')) as Runtime) : undefined
}

/** @throws ConfigError that says what to run first */
export function requireRuntime(config: Pick<Config, 'imagesDir'>): Runtime {
  const runtime = readRuntime(config)
  if (!runtime) throw new ConfigError("This machine is not set up yet: run 'npm run quickstart' first.")
  return runtime
}

export async function writeRuntime(config: Pick<Config, 'imagesDir'>, runtime: Runtime): Promise<void> {
  const path = runtimePath(config)
  mkdirSync(dirname(path), { recursive: true })
  await writeDurably(path, `${JSON.stringify(runtime, null, 2)}\n`)
}
