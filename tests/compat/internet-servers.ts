/** The servers of the compatibility run's internet, with the settings as JSON in the first argument. Prints `ready`. */
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:https'
import { createServer as createTcpServer } from 'node:net'

interface Settings {
  resolver: string
  /** Every name under it has the one address. */
  suffix: string
  suffixAddress: string
  sites: { name: string; address: string; status: number; location?: string }[]
  key: string
  cert: string
}

const settings = JSON.parse(process.argv[2] ?? '{}') as Settings
const { key, cert, sites, suffix, suffixAddress, resolver } = settings

function addressOf(name: string): string | undefined {
  if (name === suffix || name.endsWith(`.${suffix}`)) return suffixAddress
  return sites.find((site) => site.name === name)?.address
}

/** One A record, no record of other types, NXDOMAIN for unknown names. */
function resolve(query: Buffer): Buffer {
  const labels: string[] = []
  let at = 12
  for (let length = query[at] ?? 0; length !== 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  const address = addressOf(labels.join('.').toLowerCase())
  const isA = query.readUInt16BE(at + 1) === 1
  const record =
    address && isA
      ? Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address.split('.').map(Number)])
      : Buffer.alloc(0)
  const header = Buffer.from([0, 0, 0x81, address ? 0x80 : 0x83, 0, 1, 0, record.length ? 1 : 0, 0, 0, 0, 0])
  query.copy(header, 0, 0, 2)
  return Buffer.concat([header, query.subarray(12, at + 5), record])
}

// In the namespace of the internet forwarding is its own switch.
writeFileSync('/proc/sys/net/ipv4/ip_forward', '1')
const dns = createSocket('udp4').on('message', (query, from) =>
  dns.send(resolve(query), from.port, from.address),
)
await once(dns.bind(53, resolver), 'listening')
const dnsOverTcp = createTcpServer((socket) => {
  socket.on('error', () => {})
  socket.on('data', (message) => {
    const reply = resolve(message.subarray(2))
    const length = Buffer.alloc(2)
    length.writeUInt16BE(reply.length)
    socket.write(Buffer.concat([length, reply]))
  })
})
await once(dnsOverTcp.listen(53, resolver), 'listening')
for (const { address, status, location } of sites) {
  const site = createServer({ key, cert }, (_request, response) => {
    response.writeHead(status, location ? { location } : {}).end()
  })
  site.on('tlsClientError', () => {})
  await once(site.listen(443, address), 'listening')
}
process.stdout.write('ready\n')
