import type { SuiteName } from './suites.ts'

/** What one run does; the command hands it to the part that runs inside the namespaces. */
export interface RunPlan {
  readonly suite: SuiteName
  /** Checkout of the official package. */
  readonly suiteDir: string
  /** Cases that count; undefined = all that the suite has. */
  readonly cases: readonly string[] | undefined
  /** Interpreter of the environment with the Python suites' dependencies. */
  readonly python: string
  readonly workers: number
  /** Where certificates and images are kept between runs. */
  readonly workDir: string
  /** Everything the suite and the server print goes here. */
  readonly logDir: string
}

/** The machine's end of the link to the internet, and what the internet answers on. */
export const MACHINE_ADDRESS = '198.51.100.1'
export const INTERNET_ADDRESS = '198.51.100.2'
/** Resolver of machine and sandboxes. */
export const RESOLVER = '9.9.9.9'
/** Where the domain's names lead: the public address that is translated to the machine's TLS listener. */
export const PUBLIC_ADDRESS = '203.0.113.20'
/** No port: rules for a host name take none. */
export const DOMAIN = 'e2b.test'

/** Web servers of the internet: what they answer is what the suites expect of the real ones. */
export const SITES: readonly { name: string; address: string; status: number; location?: string }[] = [
  { name: 'one.one.one.one', address: '1.1.1.1', status: 301, location: 'https://one.one.one.one/' },
  { name: 'dns.google', address: '8.8.8.8', status: 302, location: 'https://dns.google/' },
  { name: 'connectivitycheck.gstatic.com', address: '142.250.80.3', status: 204 },
]
