/** Starts a kernel: `main.ts --connection-file FILE [--language typescript]`. Both of its threads begin here. */
import { parseArgs } from 'node:util'
import { isMainThread, parentPort } from 'node:worker_threads'
import { readConnectionFile } from './connection-file.ts'
import { serveControl, startControlThread } from './control-thread.ts'
import { sharedCounters } from './interrupts.ts'

async function start(): Promise<void> {
  const { values } = parseArgs({
    options: {
      'connection-file': { type: 'string' },
      language: { type: 'string', default: 'javascript' },
    },
  })
  const connectionFile = values['connection-file']
  if (connectionFile === undefined) throw new TypeError('--connection-file is missing')
  const shared = sharedCounters()
  // The control thread never loads what runs code: it stays small.
  const { Kernel } = await import('./kernel.ts')
  const kernel = new Kernel({
    connection: readConnectionFile(connectionFile),
    language: values.language === 'typescript' ? 'typescript' : 'javascript',
    shared,
  })
  await startControlThread(new URL(import.meta.url), { connectionFile, shared, sources: kernel.sources })
  await kernel.listen()
}

if (isMainThread) await start()
else {
  await serveControl()
  parentPort?.postMessage('ready')
}
