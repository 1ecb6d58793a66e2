/**
 * Files: upload one, work on it in the sandbox, download what came out.
 *
 *     eval "$(npm run -s env)"
 *     node examples/files.ts [file]
 */
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import { gunzipSync } from 'node:zlib'
import { Sandbox } from '@e2b/code-interpreter'

const path = process.argv[2] ?? import.meta.filename
const source = readFileSync(path)
const sandbox = await Sandbox.create()
try {
  await sandbox.files.write('upload', new Blob([source]))
  await sandbox.commands.run('gzip --keep upload')

  for (const entry of await sandbox.files.list('.')) {
    if (entry.name.startsWith('upload')) console.log(`${entry.path}: ${entry.size} bytes`)
  }

  // Text is the default format of a download; everything else is bytes.
  const compressed = await sandbox.files.read('upload.gz', { format: 'bytes' })
  const outcome = gunzipSync(compressed).equals(source) ? 'unchanged' : 'DIFFERENT'
  console.log(`${basename(path)}: compressed in the sandbox, ${outcome} after the trip`)
} finally {
  await sandbox.kill()
}
