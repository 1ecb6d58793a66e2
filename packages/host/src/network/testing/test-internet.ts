import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, unlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { umount2 } from '../../linux/mount.ts'
import { CLONE_NEWNET, createNamespaceAt, inNetworkNamespace } from '../../linux/namespace.ts'
import { run } from '../../linux/process.ts'

/** An internet for tests: a namespace behind this machine that answers on public addresses, and on forbidden ones. */
export interface TestInternet {
  /** Authority of the servers' certificate, PEM. */
  readonly cert: string
  /** Lines the servers printed so far: UDP messages and destinations asked of the SOCKS5 server. */
  readonly lines: readonly string[]
  /** Takes namespace, link and routes away. */
  close(): Promise<void>
}

export interface TestInternetOptions {
  /** Prefix of the namespace and the link: at most 12 of a-z and 0-9. */
  name: string
  /** Every one of these gets servers: HTTP 80 and 8080, HTTPS 443, DNS 53, hello 22, SOCKS5 1080 and 1443, UDP 9999. */
  addresses: readonly string[]
  names: Record<string, string[]>
  /** First three octets of the link between, unique per test. */
  link: string
}

export async function openTestInternet(options: TestInternetOptions): Promise<TestInternet> {
  const { name, addresses, link } = options
  const netns = `/run/netns/${name}`
  const { key, cert } = await certificate(addresses, Object.keys(options.names))
  mkdirSync('/run/netns', { recursive: true })
  createNamespaceAt('net', CLONE_NEWNET, netns)
  await run('ip', ['-batch', '-'], {
    stdin: `link add ${name}w type veth peer name up0 netns ${name}
address add ${link}.1/30 dev ${name}w
link set ${name}w up
${addresses.map((address) => `route replace ${address}/32 via ${link}.2 dev ${name}w onlink`).join('\n')}
`,
  })
  await inNetworkNamespace(netns, () =>
    run('ip', ['-batch', '-'], {
      stdin: `link set lo up
${addresses.map((address) => `address add ${address}/32 dev lo`).join('\n')}
address add ${link}.2/30 dev up0
link set up0 up
route add default via ${link}.1
`,
    }),
  )
  const settings = JSON.stringify({ names: options.names, key, cert })
  const child = inNetworkNamespace(netns, () =>
    spawn(process.execPath, [join(import.meta.dirname, 'internet-servers.ts'), settings, ...addresses], {
      stdio: ['ignore', 'pipe', 'inherit'],
    }),
  )
  const lines = await readLines(child)
  return {
    cert,
    lines,
    async close() {
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
      await run('ip', ['link', 'delete', `${name}w`])
      umount2(netns)
      if (existsSync(netns)) unlinkSync(netns)
    },
  }
}

/** Resolves when the program says that it is ready; further lines come into the answered list. */
async function readLines(child: ChildProcess): Promise<string[]> {
  const lines: string[] = []
  const { promise: ready, resolve, reject } = Promise.withResolvers<void>()
  if (!child.stdout) throw new Error('the servers have no output')
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line === 'ready') resolve()
    else lines.push(line)
  })
  child.once('exit', (status) => reject(new Error(`the servers ended with ${status}`)))
  await ready
  return lines
}

async function certificate(
  addresses: readonly string[],
  names: readonly string[],
): Promise<{ key: string; cert: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'internet-'))
  const files = { key: join(dir, 'key.pem'), cert: join(dir, 'cert.pem') }
  const subjects = [...names.map((name) => `DNS:${name}`), ...addresses.map((address) => `IP:${address}`)]
  const args = [
    'req',
    '-x509',
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-days',
    '2',
  ]
  const subject = ['-subj', '/CN=test internet', '-addext', `subjectAltName=${subjects.join(',')}`]
  try {
    await run('openssl', [...args, ...subject, '-keyout', files.key, '-out', files.cert])
    return { key: readFileSync(files.key, 'utf8'), cert: readFileSync(files.cert, 'utf8') }
  } finally {
    rmSync(dir, { recursive: true })
  }
}
