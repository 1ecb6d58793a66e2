import { isIP, isIPv4 } from 'node:net'
import { Value } from 'typebox/value'
import { ENVD_PORT } from '../ports.ts'
import { type EgressProxy, SandboxNetworkConfig } from './network.ts'

/** Checks of network settings beyond their shape. Each answers a sentence for the caller, or undefined. */

const ALL_IPV4 = '0.0.0.0/0'
const MAX_RULE_DOMAINS = 10
const MAX_RULE_HEADERS = 20
const MAX_HEADER_NAME = 64
const MAX_HEADER_VALUE = 2048
const MAX_DOMAIN = 128
const MAX_SECRETS = 32
const MAX_CREDENTIAL_BYTES = 255
const MAX_CA_CERT_BYTES = 8192
const MAX_LIST = 1000

const LABEL = /^(?!-)[a-z0-9_-]{1,63}(?<!-)$/
const HTTP_TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/
const SECRET = /\$\{e2b\.secrets\.([A-Za-z0-9_-]+)\}/g
/** What no header can carry: control characters, and what Latin-1 has not. */
const UNSENDABLE = /[^\t\x20-\x7e\x80-\xff]/

/** An IP address or a CIDR block; bare `0.0.0.0` and `::` name no host and are refused. */
export function isAddressOrBlock(entry: string): boolean {
  const [address = '', prefix, ...rest] = entry.split('/')
  const family = isIP(address)
  if (family === 0 || rest.length > 0) return false
  if (prefix === undefined) return address !== '0.0.0.0' && address !== '::'
  return /^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128)
}

function isDnsName(name: string): boolean {
  return (
    name.length <= MAX_DOMAIN && !/^[\d.]+$/.test(name) && name.split('.').every((part) => LABEL.test(part))
  )
}

/** An exact name, `*.suffix`, or `*`. */
export function isDomainPattern(entry: string): boolean {
  const name = entry.toLowerCase()
  if (name === '*') return true
  return isDnsName(name.startsWith('*.') ? name.slice(2) : name)
}

function checkEgressLists(config: SandboxNetworkConfig): string | undefined {
  const { allowOut = [], denyOut = [] } = config
  if (allowOut.length > MAX_LIST || denyOut.length > MAX_LIST) {
    return `allowOut and denyOut may have at most ${MAX_LIST} entries each`
  }
  for (const entry of denyOut) {
    if (!isAddressOrBlock(entry))
      return `invalid denied CIDR ${entry}: denyOut takes IP addresses and CIDR blocks`
  }
  let hasDomain = false
  for (const entry of allowOut) {
    if (isAddressOrBlock(entry)) continue
    if (!isDomainPattern(entry))
      return `invalid allowOut entry ${entry}: give an IP address, a CIDR block or a domain`
    hasDomain = true
  }
  if (hasDomain && !denyOut.includes(ALL_IPV4)) {
    return `When specifying allowed domains in allowOut, denyOut must include '${ALL_IPV4}' to block all other traffic.`
  }
  return undefined
}

/** Splits `host:port`; an IPv6 host stands in brackets. Undefined when it is neither. */
export function splitHostPort(address: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:/[\]]+)):(\d{1,5})$/.exec(address)
  if (!match) return undefined
  const port = Number(match[3])
  const host = match[1] ?? match[2] ?? ''
  const known = match[1] ? isIP(host) === 6 : isIPv4(host) || isDnsName(host.toLowerCase())
  return known && port >= 1 && port <= 65535 ? { host, port } : undefined
}

function checkProxy(proxy: EgressProxy): string | undefined {
  if (!splitHostPort(proxy.address)) return `egressProxy.address must be host:port, not '${proxy.address}'`
  for (const name of ['username', 'password'] as const) {
    if (Buffer.byteLength(proxy[name] ?? '') > MAX_CREDENTIAL_BYTES) {
      return `egressProxy.${name} must be at most ${MAX_CREDENTIAL_BYTES} bytes`
    }
  }
  if (proxy.password && !proxy.username) return 'egressProxy.password needs egressProxy.username'
  const { tls } = proxy
  if (tls && !tls.enabled && (tls.serverName !== undefined || tls.caCert !== undefined)) {
    return 'egressProxy.tls.serverName and caCert need egressProxy.tls.enabled'
  }
  if (Buffer.byteLength(tls?.caCert ?? '') > MAX_CA_CERT_BYTES) {
    return `egressProxy.tls.caCert must be at most ${MAX_CA_CERT_BYTES} bytes`
  }
  if (tls?.caCert && !tls.caCert.includes('-----BEGIN CERTIFICATE-----')) {
    return 'egressProxy.tls.caCert must hold certificates in PEM form'
  }
  return undefined
}

function checkHeaders(
  domain: string,
  headers: Record<string, string>,
  secrets: Set<string>,
): string | undefined {
  const entries = Object.entries(headers)
  if (entries.length > MAX_RULE_HEADERS) return `rules.${domain} may set at most ${MAX_RULE_HEADERS} headers`
  for (const [name, value] of entries) {
    if (name.length > MAX_HEADER_NAME || !HTTP_TOKEN.test(name))
      return `rules.${domain}: invalid header name '${name}'`
    if (value.length > MAX_HEADER_VALUE || UNSENDABLE.test(value))
      return `rules.${domain}: invalid value of header ${name}`
    for (const match of value.matchAll(SECRET)) secrets.add(match[1]!.toLowerCase())
  }
  return undefined
}

function checkRules(rules: NonNullable<SandboxNetworkConfig['rules']>): string | undefined {
  const domains = Object.keys(rules)
  if (domains.length > MAX_RULE_DOMAINS) return `rules may name at most ${MAX_RULE_DOMAINS} domains`
  if (new Set(domains.map((domain) => domain.toLowerCase())).size < domains.length) {
    return 'rules name the same domain twice'
  }
  const secrets = new Set<string>()
  for (const [domain, list] of Object.entries(rules)) {
    if (domain === '*' || !isDomainPattern(domain) || domain.length > MAX_DOMAIN) {
      return `rules: '${domain}' must be a DNS name or *.suffix`
    }
    if (list.length > 1) return `rules.${domain} may have one rule`
    const error = checkHeaders(domain, list[0]?.transform?.headers ?? {}, secrets)
    if (error) return error
  }
  return secrets.size > MAX_SECRETS ? `rules may use at most ${MAX_SECRETS} secrets` : undefined
}

function checkMask(mask: string): string | undefined {
  const [host = '', port, ...rest] = mask.replaceAll(`\${PORT}`, '1').split(':')
  const portGood = port === undefined || (/^\d{1,5}$/.test(port) && Number(port) <= 65535)
  const hostGood = isDnsName(host.toLowerCase()) || isIPv4(host)
  return hostGood && portGood && rest.length === 0
    ? undefined
    : `maskRequestHost must be an ASCII host[:port], not '${mask}'`
}

/** Whether a value has the shape of network settings; `checkNetworkConfig` says whether they are valid. */
export const isNetworkConfig = (value: unknown): value is SandboxNetworkConfig =>
  Value.Check(SandboxNetworkConfig, value)

/**
 * Checks a sandbox's network settings.
 * @returns a sentence that says what to change, or undefined when they are valid
 */
export function checkNetworkConfig(config: SandboxNetworkConfig): string | undefined {
  for (const server of config.dnsServers ?? []) {
    if (!isIPv4(server) || server === '0.0.0.0') return `dnsServers: '${server}' is not an IPv4 address`
  }
  if (config.httpsPorts?.includes(ENVD_PORT)) return `httpsPorts must not include ${ENVD_PORT}`
  return (
    checkEgressLists(config) ??
    (config.egressProxy ? checkProxy(config.egressProxy) : undefined) ??
    (config.rules ? checkRules(config.rules) : undefined) ??
    (config.maskRequestHost ? checkMask(config.maskRequestHost) : undefined)
  )
}

/** The settings as they are stored: names of rules in lower case. */
export function normaliseNetworkConfig(config: SandboxNetworkConfig): SandboxNetworkConfig {
  if (!config.rules) return config
  const rules = Object.entries(config.rules).map(([domain, list]) => [domain.toLowerCase(), list] as const)
  return { ...config, rules: Object.fromEntries(rules) }
}

/** The settings as they are shown: without the proxy's password and certificate. */
export function publicNetworkConfig(config: SandboxNetworkConfig): SandboxNetworkConfig {
  if (!config.egressProxy) return config
  const { password: _password, tls, ...proxy } = config.egressProxy
  if (!tls) return { ...config, egressProxy: tls === null ? { ...proxy, tls } : proxy }
  const { caCert: _caCert, ...shownTls } = tls
  return { ...config, egressProxy: { ...proxy, tls: shownTls } }
}
