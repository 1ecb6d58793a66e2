/** What a sandbox may reach: the user's settings, and the decision they mean for one connection. */
import type { EgressProxy, SandboxNetworkConfig } from '@sandbox/contract/rest/network'
import { checkNetworkConfig, isNetworkConfig } from '@sandbox/contract/rest/network-rules'
import { HostError } from '../host-error.ts'
import { type AddressRange, addressNumber, inRanges, mergedRanges } from './address-ranges.ts'

/** As it is kept: plain data, journalled with the sandbox. Settings that concern arriving traffic are not in it. */
export interface NetworkPolicy {
  /** False denies every address that `allowOut` does not allow, whatever `denyOut` says. */
  readonly internet: boolean
  /** IPv4 addresses, CIDR blocks and domains (`name`, `*.suffix`, `*`). Beats `denyOut`. */
  readonly allowOut?: readonly string[]
  /** IPv4 addresses and CIDR blocks. */
  readonly denyOut?: readonly string[]
  /** Resolvers instead of the machine's, when `allowOut` has a domain; none of them means no names. */
  readonly dnsServers?: readonly string[]
  /** SOCKS5 proxy that carries every TCP connection which the lists let through. */
  readonly egressProxy?: EgressProxy
  /** Headers set on HTTPS requests, by domain (`name` or `*.suffix`, lower case). Allows nothing by itself. */
  readonly rules?: Readonly<Record<string, Readonly<Record<string, string>>>>
}

/** Everything but internal ranges. Costs nothing to apply to a clean slot. */
export const openPolicy: NetworkPolicy = { internet: true }

/** The resolver that E2B's sandboxes use: names resolve while it may be reached, though ours is the gateway. */
const standardResolver = '8.8.8.8'
/** Begins the name of a secret or token in the value of a header. */
const placeholder = `\${e2b.`
const allAddresses = '0.0.0.0/0'
export const httpPort = 80
export const tlsPort = 443

/**
 * @param networkJson SandboxNetworkConfig or SandboxNetworkUpdate of the contract as JSON; empty for none
 * @throws HostError invalid with a sentence for the caller; unsupported for rules that this host cannot enforce
 */
export function parseNetworkPolicy(networkJson: string, allowInternetAccess: boolean): NetworkPolicy {
  if (networkJson === '') return allowInternetAccess ? openPolicy : { internet: false }
  const config = parsed(networkJson)
  const problem = checkNetworkConfig(config)
  if (problem) throw new HostError('invalid', problem)
  const rules = rulesOf(config)
  const { allowOut, denyOut, dnsServers, egressProxy } = config
  return {
    internet: allowInternetAccess,
    ...(allowOut?.length ? { allowOut } : {}),
    ...(denyOut?.length ? { denyOut } : {}),
    ...(dnsServers ? { dnsServers } : {}),
    ...(egressProxy ? { egressProxy } : {}),
    ...(Object.keys(rules).length > 0 ? { rules } : {}),
  }
}

function rulesOf({ rules = {} }: SandboxNetworkConfig): Record<string, Record<string, string>> {
  const headers = Object.entries(rules).map(
    ([domain, list]) => [domain.toLowerCase(), list[0]?.transform?.headers ?? {}] as const,
  )
  if (headers.some(([, set]) => Object.values(set).some((value) => value.includes(placeholder))))
    throw new HostError(
      'unsupported',
      'this host resolves no secrets and tokens in network.rules: give the values',
    )
  return Object.fromEntries(headers.filter(([, set]) => Object.keys(set).length > 0))
}

function parsed(networkJson: string): SandboxNetworkConfig {
  let value: unknown
  try {
    value = JSON.parse(networkJson)
  } catch (error) {
    throw new HostError('invalid', 'network_json is not JSON', error)
  }
  if (!isNetworkConfig(value)) throw new HostError('invalid', 'network_json is not a network config')
  return value
}

/** How a connection may go out. */
export type EgressDecision = 'byName' | 'byAddress' | 'refused'

/** A policy made ready for decisions. Internal ranges are not its matter: nothing in it can open them. */
export interface Egress {
  readonly allowed: readonly AddressRange[]
  readonly denied: readonly AddressRange[]
  /** Lower-case patterns. */
  readonly domains: readonly string[]
  /** Resolvers that answer the sandbox; undefined for the machine's own, empty for none. */
  readonly resolvers: readonly string[] | undefined
  readonly proxy: EgressProxy | undefined
  readonly rules: NonNullable<NetworkPolicy['rules']>
}

/**
 * Undefined when the policy decides nothing: the fast path.
 * @param internal ranges in which no resolver is asked
 */
export function compileEgress(policy: NetworkPolicy, internal: readonly AddressRange[]): Egress | undefined {
  const denyOut = policy.internet ? (policy.denyOut ?? []) : [allAddresses]
  if (denyOut.length === 0 && !policy.egressProxy && !policy.rules) return undefined
  const entries = policy.allowOut ?? []
  const domains = entries.filter((entry) => !isAddressEntry(entry)).map((entry) => entry.toLowerCase())
  const reachable = domains.length > 0 ? (policy.dnsServers ?? [standardResolver]) : []
  const allowed = mergedRanges([...entries, ...reachable])
  const denied = mergedRanges(denyOut)
  const lists = { allowed, denied, domains }
  const resolvers = resolversOf(policy, lists)?.filter(
    (address) => !inRanges(internal, addressNumber(address)),
  )
  return { ...lists, resolvers, proxy: policy.egressProxy, rules: policy.rules ?? {} }
}

/** @param name lower-case host name that the connection says it is for, if it says one */
export function decideEgress(egress: Egress, name: string | undefined, address: string): EgressDecision {
  if (name !== undefined && egress.domains.some((pattern) => matchesDomain(name, pattern))) return 'byName'
  return mayReach(egress, address) ? 'byAddress' : 'refused'
}

/** The headers to set on HTTPS requests to a name: of its own rule, or of the longest suffix. */
export function headersFor({ rules }: Egress, name: string): Readonly<Record<string, string>> | undefined {
  if (Object.hasOwn(rules, name)) return rules[name]
  const suffixes = Object.keys(rules).filter((key) => key.startsWith('*.') && matchesDomain(name, key))
  const [longest] = suffixes.sort((a, b) => b.length - a.length)
  return longest === undefined ? undefined : rules[longest]
}

function resolversOf(
  policy: NetworkPolicy,
  lists: Pick<Egress, 'allowed' | 'denied' | 'domains'>,
): readonly string[] | undefined {
  if (lists.domains.length > 0) return policy.dnsServers
  return mayReach(lists, standardResolver) ? undefined : []
}

function mayReach({ allowed, denied }: Pick<Egress, 'allowed' | 'denied'>, address: string): boolean {
  const number = addressNumber(address)
  return inRanges(allowed, number) || !inRanges(denied, number)
}

function matchesDomain(name: string, pattern: string): boolean {
  if (pattern === '*' || pattern === name) return true
  return pattern.startsWith('*.') && name.length > pattern.length - 1 && name.endsWith(pattern.slice(1))
}

/** Domains hold neither a slash nor a colon and do not end in digits alone. */
function isAddressEntry(entry: string): boolean {
  return entry.includes('/') || entry.includes(':') || /^[\d.]+$/.test(entry)
}
