/** Firecracker's own jailer, with a small program in Firecracker's place: no KVM is needed for that. */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { buildMountInto, buildShim } from '../../packages/host/native/build.ts'
import {
  closeJail,
  JAIL,
  type JailOptions,
  jailRoot,
  prepareJail,
  removeJail,
} from '../../packages/host/src/engines/microvm/firecracker-jail.ts'
import type { MachinePlan } from '../../packages/host/src/engines/microvm/monitor.ts'
import { Shim } from '../../packages/host/src/engines/shim.ts'
import { CgroupRoot } from '../../packages/host/src/linux/cgroup-root.ts'
import { mount, umount2 } from '../../packages/host/src/linux/mount.ts'
import { mountsUnder, unmountTree } from '../../packages/host/src/linux/mount-table.ts'
import { CLONE_NEWNET, createNamespaceAt } from '../../packages/host/src/linux/namespace.ts'
import { run } from '../../packages/host/src/linux/process.ts'
import { loadConfig } from '../../packages/server/src/config.ts'
import { ensureFirecracker } from '../emulated/firecracker-binaries.ts'

/** Says what it sees, writes what it may, and stays. */
const PROGRAM = `
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
static void try_to(const char *what, const char *path, int flags) {
    int fd = open(path, flags, 0600);
    printf("%s %s\\n", what, fd < 0 ? "no" : "yes");
    if (fd >= 0) close(fd);
}
int main(int argc, char **argv) {
    printf("pid %d\\nuid %d\\ngid %d\\nlast %s\\n", getpid(), getuid(), getgid(), argv[argc - 1]);
    DIR *root = opendir("/");
    for (struct dirent *entry; root && (entry = readdir(root));) printf("entry %s\\n", entry->d_name);
    try_to("write-disk", "/drive0", O_RDWR);
    try_to("read-layer", "/drive1", O_RDONLY);
    try_to("write-layer", "/drive1", O_RDWR);
    try_to("up", "/../../../etc/passwd", O_RDONLY);
    try_to("make-before", "/before", O_WRONLY | O_CREAT);
    fflush(stdout);
    close(open("/api.sock", O_WRONLY | O_CREAT, 0600));
    while (access("/closed", F_OK)) usleep(10000);
    try_to("make-after", "/after", O_WRONLY | O_CREAT);
    try_to("write-out", "/memory.out", O_WRONLY);
    printf("end\\n");
    fflush(stdout);
    for (;;) pause();
}
`
const INSTANCE = 'fcxj'
const UID = 0x7b00_0000

let dir: string
let options: JailOptions
let plan: MachinePlan
let log: string
let shim: Shim
let mountInto: string
let cgroups: CgroupRoot
let pid: number

beforeAll(async () => {
  dir = mkdtempSync(join(tmpdir(), 'jail-'))
  chmodSync(dir, 0o711)
  mkdirSync(join(dir, 'run'))
  mount('run', join(dir, 'run'), 'tmpfs', 0, 'size=64m,mode=711')
  const { jailer } = await ensureFirecracker(join(loadConfig().stateDir, 'cache'), () => {})
  writeFileSync(join(dir, 'program.c'), PROGRAM)
  mkdirSync(join(dir, 'bin'))
  // The jailer names its directory after the program.
  await run('gcc', ['-static', '-Wall', '-o', join(dir, 'bin/firecracker'), join(dir, 'program.c')])
  cgroups = new CgroupRoot({ instance: INSTANCE })
  cgroups.prepare()
  const cgroup = cgroups.cgroup('1')
  cgroup.create()
  const netnsPath = join(dir, 'run/netns')
  createNamespaceAt('net', CLONE_NEWNET, netnsPath)
  for (const name of ['disk', 'layer', 'kernel', 'initramfs']) writeFileSync(join(dir, name), name)
  chmodSync(join(dir, 'layer'), 0o444)
  execFileSync('chown', [`${UID}`, join(dir, 'disk')])
  options = {
    firecrackerPath: join(dir, 'bin/firecracker'),
    jailerPath: jailer,
    jailsDir: join(dir, 'run/jails'),
    cgroupVersion: cgroups.layout.version,
  }
  plan = {
    slot: { index: 1, uidBase: UID, netnsPath, cgroupPaths: cgroup.paths },
    drives: [
      { path: join(dir, 'disk'), readOnly: false },
      { path: join(dir, 'layer'), readOnly: true },
    ],
    image: { kernelPath: join(dir, 'kernel'), initramfsPath: join(dir, 'initramfs') },
    memoryDir: undefined,
  } as unknown as MachinePlan
  log = join(dir, 'log')
  shim = new Shim(await buildShim({ outDir: dir }))
  mountInto = await buildMountInto({ outDir: dir })
})

afterAll(async () => {
  await cgroups.cgroup('1').killAll()
  await shim.end()
  await cgroups.remove()
  umount2(join(dir, 'run/netns'))
  unmountTree(join(dir, 'run'))
  rmSync(dir, { recursive: true, force: true })
})

const said = (): string[] => readFileSync(log, 'utf8').split('\n')
const saidOf = (what: string): string[] =>
  said()
    .filter((line) => line.startsWith(`${what} `))
    .map((line) => line.slice(what.length + 1))

it('runs the program as nobody, alone in a root with what it may see', async () => {
  const { pidFile, ...command } = prepareJail(options, plan)
  const { netnsPath, cgroupPaths } = plan.slot
  const started = await shim.start({
    ...command,
    id: 'jailed',
    cgroupPaths,
    netns: netnsPath,
    logPath: log,
    sandbox: { pidFile, startedFile: join(dir, 'started'), exitFile: join(dir, 'exit') },
  })
  pid = started.pid
  await expect.poll(() => existsSync(join(jailRoot(options, plan.slot), JAIL.control))).toBe(true)
  expect(Object.fromEntries(['pid', 'uid', 'gid', 'last'].map((what) => [what, saidOf(what)[0]]))).toEqual({
    pid: '1',
    uid: String(UID),
    gid: String(UID),
    last: JAIL.control,
  })
  const entries = ['dev', 'drive0', 'drive1', 'firecracker', 'initramfs', 'kernel', 'memory.out', 'state.out']
  expect(saidOf('entry').filter((name) => !name.startsWith('.'))).toEqual(expect.arrayContaining(entries))
  expect(saidOf('entry')).not.toEqual(expect.arrayContaining(['etc']))
  expect(['write-disk', 'read-layer', 'write-layer', 'up'].map((what) => saidOf(what)[0])).toEqual([
    'yes',
    'yes',
    'no',
    'no',
  ])
  for (const kind of ['mnt', 'pid', 'net'])
    expect(readlinkSync(`/proc/${pid}/ns/${kind}`)).not.toBe(readlinkSync(`/proc/self/ns/${kind}`))
  expect(cgroups.cgroup('1').pids()).toContain(pid)
  expect(readFileSync(`/proc/${pid}/limits`, 'utf8')).toMatch(/Max open files +1024 +1024/)
})

it("once closed, no name in it is the monitor's to choose", async () => {
  expect(saidOf('make-before')).toEqual(['yes'])
  closeJail(options, plan.slot)
  const root = jailRoot(options, plan.slot)
  expect([statSync(root).uid, statSync(root).mode & 0o777]).toEqual([0, 0o711])
  writeFileSync(join(root, 'closed'), '')
  await expect.poll(() => said().includes('end')).toBe(true)
  expect([saidOf('make-after'), saidOf('write-out')]).toEqual([['no'], ['no']])
})

it('shows it one more file, and takes it away', async () => {
  const outside = join(dir, 'memory')
  writeFileSync(outside, 'shown')
  const seen = `/proc/${pid}/root${JAIL.memoryOut}`
  expect(readFileSync(seen, 'utf8')).toBe('')
  await run(mountInto, [String(pid), outside, JAIL.memoryOut])
  expect(readFileSync(seen, 'utf8')).toBe('shown')
  // In the monitor's namespace alone.
  expect(mountsUnder(join(options.jailsDir, 'firecracker'))).toEqual([])
  await run(mountInto, [String(pid), JAIL.memoryOut])
  expect(readFileSync(seen, 'utf8')).toBe('')
  await expect(run(mountInto, [String(pid), join(dir, 'none'), JAIL.memoryOut])).rejects.toThrow(/open_tree/)
  await expect(run(mountInto, [String(pid), outside, '/none'])).rejects.toThrow(/move_mount/)
})

it('removed, nothing of it is left', async () => {
  await cgroups.cgroup('1').killAll()
  await shim.end()
  removeJail(options, plan.slot)
  removeJail(options, plan.slot)
  expect(readdirSync(join(options.jailsDir, 'firecracker'))).toEqual([])
})
