import assert from 'node:assert/strict'
import { execFile, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { promisify } from 'node:util'
import { type Attempt, attempts } from '../../engines/attempts.ts'
import { setTrap, type Trap } from '../../engines/trap.ts'
import { type Case, ofFirecracker } from './case.ts'
import { askFirecracker, monitorPid } from './firecracker-machine.ts'
import type { HostUnderTest, Running } from './host-under-test.ts'
import { jailOf } from './jail.ts'

/** Ways out of a microVM, tried by its root. Each is shown to work on the machine itself, or without the firewall. */

const PART = 'walls'
const HEAD_BYTES = 2 ** 20
/** Of the flags of an open file: reading alone is 0. */
const ACCESS_MODE = 3
const RULES_RETURN_MS = 180_000

let trap: Trap
let inside: Running
let sibling: Running
let server: Server

function caught(printed: string): string[] {
  return [
    ...(printed.includes(trap.secret) ? ['secret'] : []),
    ...(/\be2b\d+h/.test(printed) ? ['links'] : []),
    ...trap.changes(),
  ]
}

/** What the same program gets where nothing keeps it in: on the machine, as root. */
async function withoutWalls(program: string): Promise<string[]> {
  const { stdout } = await promisify(execFile)('python3', ['-c', program], {
    env: { ...process.env, TMPDIR: trap.dir },
    maxBuffer: 2 ** 26,
  })
  const got = caught(stdout)
  execFileSync('rm', ['-f', `${trap.dir}/written`])
  return got
}

const attempt = ({ what, program, hasControl = true }: Attempt): Case => ({
  ...ofFirecracker,
  part: PART,
  name: `root in a machine does not get ${what}${hasControl ? ', which root outside gets' : ''}`,
  async run(host) {
    // One that has no control may ruin its own sandbox.
    const from = hasControl ? inside : await host.start()
    assert.deepEqual(caught(await host.python(from.address, program(trap))), [])
    if (hasControl) assert.notDeepEqual(await withoutWalls(program(trap)), [])
    else await host.stop(from)
    return {}
  },
})

const modulesOfMachine = (): string[] => readFileSync('/proc/modules', 'utf8').match(/^\w+/gm)!.sort()

/** Names of the disks that a monitor holds open for writing, as it sees them. */
function writableDisks({ address }: Running): string[] {
  const dir = `/proc/${monitorPid(address)}`
  return readdirSync(`${dir}/fd`).flatMap((fd) => {
    const path = readlinkSync(`${dir}/fd/${fd}`)
    const flags = Number.parseInt(
      /^flags:\s*(\d+)/m.exec(readFileSync(`${dir}/fdinfo/${fd}`, 'utf8'))![1]!,
      8,
    )
    return /\/drive\d+$/.test(path) && (flags & ACCESS_MODE) !== 0 ? [path] : []
  })
}

/** The beginnings of the read-only disks of a sandbox, as its monitor has them open. */
function readOnlyDisks({ address }: Running): string[] {
  const pid = monitorPid(address)
  return execFileSync('ls', [`/proc/${pid}/root`], { encoding: 'utf8' })
    .split('\n')
    .filter((name) => /^drive[1-9]/.test(name))
    .map((name) => {
      const fd = openSync(`/proc/${pid}/root/${name}`, 'r')
      const head = Buffer.alloc(HEAD_BYTES)
      readSync(fd, head)
      closeSync(fd)
      return head.toString('base64')
    })
}

const reach = async (host: HostUnderTest, url: string): Promise<string> =>
  (await host.run(inside.address, `curl -sg -o - --connect-timeout 10 --max-time 15 '${url}' || true`)).output

export const wallCases: Case[] = [
  {
    ...ofFirecracker,
    part: PART,
    name: 'a trap is set on the machine',
    async run(host) {
      inside = await host.start()
      sibling = await host.start()
      trap = await setTrap([host.config.firecracker, host.config.jailer])
      return {}
    },
  },
  ...attempts.filter(({ reachesKernel = false }) => !reachesKernel).map(attempt),
  {
    ...ofFirecracker,
    part: PART,
    name: 'root in a machine writes its own disk; the read-only ones stay as they are',
    async run(host) {
      const thrown = await host.start()
      const before = readOnlyDisks(thrown)
      assert.ok(before.length > 1)
      // Whatever the guest's kernel thinks of them.
      assert.deepEqual(writableDisks(thrown), ['/drive0'])
      const printed = await host.python(
        thrown.address,
        `
import fcntl, glob, os
for path in sorted(glob.glob('/dev/vd[b-z]')):
    try:
        fd = os.open(path, os.O_RDWR | os.O_SYNC)
        # BLKROSET: the guest's kernel would refuse by itself otherwise.
        fcntl.ioctl(fd, 0x125d, b'\\0\\0\\0\\0')
        os.write(fd, b'ruined' * 1024)
        print('written', path)
    except OSError as error:
        print('refused', error.errno)
fd = os.open('/dev/vda', os.O_WRONLY | os.O_SYNC)
os.lseek(fd, 1 << 20, 0)
print('own', os.write(fd, bytes(1 << 16)))
`,
      )
      assert.match(printed, /^own 65536$/m)
      assert.deepEqual(readOnlyDisks(thrown), before)
      await host.stop(thrown)
      assert.equal(await host.output(inside.address, 'echo fine'), 'fine')
      return { disks: before.length, printed }
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    name: 'modules and settings of its kernel are its own, and it has no socket to this machine',
    async run(host) {
      const before = modulesOfMachine()
      const printed = await host.python(
        inside.address,
        `
import ctypes, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(175, b'not a module', 12, b'')
print('loader', ctypes.get_errno())
open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/true')
try:
    s = socket.socket(40, socket.SOCK_STREAM)
    s.settimeout(5)
    s.connect((2, 49983))
    print('connected')
except OSError: print('no socket')
`,
      )
      assert.match(printed, /^loader 8$/m)
      assert.match(printed, /^no socket$/m)
      assert.deepEqual(modulesOfMachine(), before)
      assert.deepEqual(trap.changes(), [])
      const config = await askFirecracker(inside.address, 'GET', '/vm/config')
      assert.equal(config.vsock ?? null, null)
      return {}
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    name: 'this machine, siblings and metadata are out of reach, until the rules are taken away and put back',
    async run(host) {
      server = createServer((_request, response) => response.end(trap.secret)).listen(0, '0.0.0.0')
      await once(server, 'listening')
      const { port } = server.address() as AddressInfo
      const machine = `http://${inside.address.replace(/\.\d+$/, '.1')}:${port}`
      const urls = [
        machine,
        `http://169.254.0.22:${port}`,
        `http://${sibling.address}:49983/health`,
        'http://169.254.169.254/latest/meta-data/',
        'http://10.0.0.1',
        `http://[fe80::1%25eth0]:${port}`,
      ]
      const answers = await Promise.all(urls.map((url) => reach(host, url)))
      assert.deepEqual(
        answers,
        urls.map(() => ''),
      )
      const until = async (expected: (got: string) => boolean, before: () => void): Promise<void> => {
        const endsAtMs = performance.now() + RULES_RETURN_MS
        for (;;) {
          before()
          const got = await reach(host, machine).catch(() => '')
          if (expected(got)) return
          assert.ok(performance.now() < endsAtMs, got)
        }
      }
      await until(
        (got) => got.includes(trap.secret),
        () => {
          try {
            execFileSync('nft', ['delete', 'table', 'inet', 'e2b'], { stdio: 'ignore' })
          } catch {
            // Not back yet.
          }
        },
      )
      await until(
        (got) => got === '',
        () => {},
      )
      server.close()
      return {}
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    name: 'a machine takes no address of a sibling, and speaks no IPv6',
    async run(host) {
      const printed = await host.python(
        inside.address,
        `
import socket, struct, subprocess
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 0))
mine = open('/sys/class/net/eth0/address').read().strip().replace(':', '')
mine = bytes.fromhex(mine)
for theirs in (socket.inet_aton('${sibling.address}'), socket.inet_aton('169.254.0.22')):
    s.send(b'\\xff' * 6 + mine + struct.pack('!HHHBBH', 0x806, 1, 0x800, 6, 4, 2) + mine + theirs + b'\\xff' * 6 + theirs)
s.send(b'\\x33\\x33\\0\\0\\0\\1' + mine + b'\\x86\\xdd' + bytes.fromhex('6000000000083aff') + bytes(15) + b'\\1' + bytes.fromhex('ff020000000000000000000000000001') + bytes(8))
print('sent')
`,
      )
      assert.match(printed, /^sent$/m)
      assert.equal(await host.output(sibling.address, 'echo reached'), 'reached')
      assert.equal(await host.output(inside.address, 'echo reached'), 'reached')
      assert.doesNotMatch(execFileSync('ip', ['-6', 'neigh'], { encoding: 'utf8' }), /dev e2b/)
      return {}
    },
  },
  {
    ...ofFirecracker,
    part: PART,
    name: 'nothing of the machine has changed, and monitors are jailed as before',
    async run(host) {
      assert.deepEqual(trap.changes(), [])
      for (const { address } of [inside, sibling]) jailOf(monitorPid(address))
      trap.remove()
      await host.stop(inside, sibling)
      return {}
    },
  },
]
