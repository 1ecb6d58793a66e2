import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, readSync } from 'node:fs'
import { type Case, ofFirecracker } from './case.ts'
import { askFirecracker, monitorPid } from './firecracker-machine.ts'
import type { Running } from './host-under-test.ts'
import { WALLS, walled } from './walled.ts'

/** Walls that only a machine of its own has: its disks, its kernel, its link. */

const HEAD_BYTES = 2 ** 20
/** Of the flags of an open file: reading alone is 0. */
const ACCESS_MODE = 3

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

export const machineWallCases: Case[] = [
  {
    ...ofFirecracker,
    part: WALLS,
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
      assert.equal(await host.output(walled().inside.address, 'echo fine'), 'fine')
      return { disks: before.length, printed }
    },
  },
  {
    ...ofFirecracker,
    part: WALLS,
    name: 'modules and settings of its kernel are its own, and it has no socket to this machine',
    async run(host) {
      const before = modulesOfMachine()
      const printed = await host.python(
        walled().inside.address,
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
      assert.deepEqual(walled().trap.changes(), [])
      const config = await askFirecracker(walled().inside.address, 'GET', '/vm/config')
      assert.equal(config.vsock ?? null, null)
      return {}
    },
  },
  {
    ...ofFirecracker,
    part: WALLS,
    name: 'a machine takes no address of a sibling, and speaks no IPv6',
    async run(host) {
      const printed = await host.python(
        walled().inside.address,
        `
import socket, struct, subprocess
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('eth0', 0))
mine = open('/sys/class/net/eth0/address').read().strip().replace(':', '')
mine = bytes.fromhex(mine)
for theirs in (socket.inet_aton('${walled().sibling.address}'), socket.inet_aton('169.254.0.22')):
    s.send(b'\\xff' * 6 + mine + struct.pack('!HHHBBH', 0x806, 1, 0x800, 6, 4, 2) + mine + theirs + b'\\xff' * 6 + theirs)
s.send(b'\\x33\\x33\\0\\0\\0\\1' + mine + b'\\x86\\xdd' + bytes.fromhex('6000000000083aff') + bytes(15) + b'\\1' + bytes.fromhex('ff020000000000000000000000000001') + bytes(8))
print('sent')
`,
      )
      assert.match(printed, /^sent$/m)
      assert.equal(await host.output(walled().sibling.address, 'echo reached'), 'reached')
      assert.equal(await host.output(walled().inside.address, 'echo reached'), 'reached')
      assert.doesNotMatch(execFileSync('ip', ['-6', 'neigh'], { encoding: 'utf8' }), /dev e2b/)
      return {}
    },
  },
]
