import { existsSync, readFileSync } from 'node:fs'
import { type Config, ConfigError } from '../config.ts'
import { bundlePath, keyPath } from '../operator-files.ts'

/**
 * What a client needs in its environment.
 * @param http header-routed plain HTTP instead of TLS by host name
 */
export function clientEnvironment(config: Config, http: boolean): Record<string, string> {
  if (!existsSync(keyPath(config))) {
    throw new ConfigError(`There is no API key in ${config.stateDir} yet: run 'npm run quickstart' first.`)
  }
  const apiKey = readFileSync(keyPath(config), 'utf8').trim()
  if (http) {
    return {
      E2B_API_KEY: apiKey,
      E2B_API_URL: `http://localhost:${config.apiPort}`,
      E2B_SANDBOX_URL: `http://localhost:${config.proxyPort}`,
    }
  }
  return {
    E2B_API_KEY: apiKey,
    E2B_DOMAIN: config.domain,
    SSL_CERT_FILE: bundlePath(config),
    NODE_EXTRA_CA_CERTS: bundlePath(config),
  }
}

const quote = (value: string): string => `'${value.replaceAll("'", "'\\''")}'`

/** Shell exports for `eval`, or JSON. */
export function printEnvironment(config: Config, options: { http: boolean; json: boolean }): string {
  const environment = clientEnvironment(config, options.http)
  if (options.json) return JSON.stringify(environment, null, 2)
  return Object.entries(environment)
    .map(([name, value]) => `export ${name}=${quote(value)}`)
    .join('\n')
}
