import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Client } from '@connectrpc/connect'
import type { Host } from '../../packages/contract/gen/host/host_pb.js'
import type { EngineName } from '../../packages/host/src/engines/engine.ts'
import { type ListedFile, listTree } from '../../packages/host/src/engines/microvm/written/tree-listing.ts'
import { run as runProgram } from '../../packages/host/src/linux/process.ts'

/** Builds the same on several engines, to see that the layers are the same. */

export interface BuiltTemplate {
  lines: readonly string[]
  /** Files of each layer that a step made, bottom to top. */
  layers: readonly (readonly ListedFile[])[]
}

export interface BuildHost {
  client: Client<typeof Host>
  imagesDir: string
  baseSnapshotId: string
}

export interface BuildRequest {
  buildId: string
  isolation: EngineName
  /** Tells its steps from those of other runs. */
  run: string
  force?: boolean
}

/** Of everything that a layer can have: once into an image without it, once over what is there. */
const WRITE = `
set -e; mkdir -p /opt/built/dir/deep /opt/built/replaced /opt/built/moved; cd /opt/built
if grep -q e2b.lower= /proc/cmdline; then echo in a machine; else echo in a container; fi
echo text > file; chown 1000:1001 file; chmod 4751 file; ln file dir/hard; touch -d 2001-02-03T04:05:06.789Z file
echo secret > dir/private; chmod 600 dir/private; chown 65534:65534 dir/private
ln -s ../file dir/link; chown -h 5:6 dir/link; ln -s /nowhere "odd name"; mkfifo fifo
head -c 300000 /dev/zero | tr '\\0' x > dir/deep/large; chown 7:8 dir; chmod 2775 dir
truncate -s 20M sparse; printf end >> sparse; echo old > replaced/old; echo inside > moved/inside; echo gone > gone
python3 -c "import os; os.setxattr('file', 'user.note', b'of a build'); os.setxattr('dir', 'user.dir', b'')"
`
const CHANGE = `
set -e; cd /opt/built; test "$(stat -c '%a %u %g %h' file)" = '4751 1000 1001 2'
test "$(cat dir/hard)" = text; test "$(stat -c %s sparse)" = 20971523; test -p fifo
python3 -c "import os; assert os.getxattr('file', 'user.note') == b'of a build'"
rm gone; rm -r replaced; mkdir replaced; echo new > replaced/new; mv moved renamed; echo more >> dir/private
`
const SEE = `
set -e; cd /opt/built; test ! -e gone; test "$(ls replaced)" = new; test "$(cat renamed/inside)" = inside
test "$(cat dir/private)" = "$(printf 'secret\\nmore')"; test "$(pwd)" = /opt/built; echo seen
`

export async function buildOn(
  { client, imagesDir, baseSnapshotId }: BuildHost,
  { buildId, isolation, run, force = false }: BuildRequest,
): Promise<BuiltTemplate> {
  const step = (type: string, ...args: string[]) => ({ type, args, filesHash: '', force: false })
  const lines: string[] = []
  const events = client.build({
    buildId,
    from: { case: 'fromSnapshotId', value: baseSnapshotId },
    steps: [`: ${run}${WRITE}`, CHANGE, SEE].map((script) => step('RUN', script, 'root')),
    resources: { cpuCount: 1, memoryMib: 512, diskMib: 256, pids: 256 },
    isolation,
    force,
  })
  try {
    for await (const { event } of events) if (event.case === 'log') lines.push(event.value.message)
  } catch (error) {
    throw new Error(lines.join('\n'), { cause: error })
  }
  const layersOf = (id: string): string[] =>
    JSON.parse(readFileSync(join(imagesDir, 'snapshots', id, 'manifest.json'), 'utf8')).layers
  const made = layersOf(buildId).slice(layersOf(baseSnapshotId).length)
  const layers: ListedFile[][] = []
  for (const digest of made) layers.push(await filesOf(join(imagesDir, 'layers', `${digest}.erofs`)))
  return { lines, layers }
}

async function filesOf(imagePath: string): Promise<ListedFile[]> {
  const dir = mkdtempSync(join(tmpdir(), 'layer-'))
  try {
    await runProgram('mount', ['-t', 'erofs', '-o', 'loop,ro', imagePath, dir])
    try {
      return listTree(dir)
    } finally {
      await runProgram('umount', [dir])
    }
  } finally {
    rmSync(dir, { recursive: true, force: true })
  }
}

/** What differs between two runs of anything, and is nobody's template. */
const OF_THE_RUN =
  /^(run|dev|proc|sys|tmp|var\/log|var\/lib\/systemd)(\/|$)|^etc\/(machine-id|hostname|hosts)$/
/** What overlay notes for itself, about its own mount. */
const OF_THE_MOUNT = /^trusted\.overlay\.(?!opaque|redirect)/

/** A layer in a form to compare by: of times those that a step has set. */
export const comparable = (layer: readonly ListedFile[]): unknown[] =>
  layer
    .filter(({ path }) => !OF_THE_RUN.test(path))
    .map(({ path, facts, attributes, mtimeNs }) => ({
      path,
      facts,
      attributes: attributes.filter((one) => !OF_THE_MOUNT.test(one)),
      mtimeNs: path === 'opt/built/file' ? mtimeNs : undefined,
    }))

/** Removes what builds have left in images that others use too. */
export function forgetBuilds(
  imagesDir: string,
  buildIds: readonly string[],
  stepsBefore: readonly string[],
): void {
  for (const id of buildIds) rmSync(join(imagesDir, 'snapshots', id), { recursive: true, force: true })
  for (const name of cachedSteps(imagesDir))
    if (!stepsBefore.includes(name)) rmSync(join(imagesDir, 'build-steps', name), { force: true })
}

export const cachedSteps = (imagesDir: string): string[] => readdirSync(join(imagesDir, 'build-steps'))
