/**
 * `Math.random` of worker threads: V8's state in them cannot be set either, and a copy of the process shares it. From
 * the first copy on they draw from OpenSSL, whose generator is the process's and gets a new seed.
 */
import { syncBuiltinESMExports } from 'node:module'
import workerThreads, { type WorkerOptions } from 'node:worker_threads'

const COPIES = 'e2b.copies'

/** Runs in each worker before its own code. Holds in scripts and modules. */
const FOLLOW_COPIES = `{
  const { randomFillSync } = process.getBuiltinModule('node:crypto');
  const shared = process.getBuiltinModule('node:worker_threads').getEnvironmentData('${COPIES}');
  if (shared instanceof SharedArrayBuffer) {
    const copies = new Int32Array(shared), words = new Uint32Array(1024);
    let known = Atomics.load(copies, 0), used = 0, draw = Math.random;
    const drawFromSystem = () => {
      if (used >= words.length) { randomFillSync(words); used = 0; }
      used += 2;
      return ((words[used - 2] >>> 5) * 2 ** 26 + (words[used - 1] >>> 6)) * 2 ** -53;
    };
    const value = () => {
      const now = Atomics.load(copies, 0);
      if (now !== known) { known = now; used = words.length; draw = drawFromSystem; }
      return draw();
    };
    Object.defineProperty(Math, 'random', { value, writable: true, configurable: true });
  }
}`.replaceAll('\n', ' ')

const FOLLOW_COPIES_URL = `data:text/javascript,${encodeURIComponent(FOLLOW_COPIES)}`
const DIRECTIVE = /^\s*(['"])use strict\1;?/

/** Reaches workers that are made later. The function returned must be called in a copy, after OpenSSL has its seed. */
export function installRandomInWorkers(): () => void {
  const copies = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
  workerThreads.setEnvironmentData(COPIES, copies.buffer)
  const { Worker } = workerThreads
  workerThreads.Worker = class extends Worker {
    constructor(file: string | URL, options?: WorkerOptions) {
      if (options?.eval === true && typeof file === 'string') {
        const directive = DIRECTIVE.exec(file)?.[0] ?? ''
        super(`${directive}${FOLLOW_COPIES}${file.slice(directive.length)}`, options)
        return
      }
      // Not this process's own options, most of which a worker must not have.
      const execArgv = [...(options?.execArgv ?? ['--no-warnings']), '--import', FOLLOW_COPIES_URL]
      super(file, { ...options, execArgv })
    }
  }
  Object.defineProperty(workerThreads.Worker, 'name', { value: Worker.name })
  syncBuiltinESMExports()
  return () => void Atomics.add(copies, 0, 1)
}
