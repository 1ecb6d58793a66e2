import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import workerThreads, { type Worker } from 'node:worker_threads'
import { expect, onTestFinished, test } from 'vitest'
import { installRandomInWorkers } from './worker-random.ts'

const DRAW = `const { parentPort } = require('node:worker_threads')
parentPort.on('message', () => parentPort.postMessage([Math.random(), /native/.test(Math.random.toString())]))`

const workers: Worker[] = []
const { Worker: Original } = workerThreads
async function draw(worker: Worker): Promise<[number, boolean]> {
  worker.postMessage(0)
  const [answer] = await once(worker, 'message')
  return answer
}

test.each(['text', 'file'])('a worker made of %s goes on with its own numbers in a copy', async (kind) => {
  workers.length = 0
  const directory = mkdtempSync(join(tmpdir(), 'workers-'))
  const path = join(directory, 'worker.cjs')
  writeFileSync(path, DRAW)
  onTestFinished(async () => {
    workerThreads.Worker = Original
    await Promise.all(workers.map((worker) => worker.terminate()))
    rmSync(directory, { recursive: true })
  })
  await expectOwnDraws(kind === 'text' ? [DRAW, { eval: true }] : [path])
})

async function expectOwnDraws(made: ConstructorParameters<typeof Worker>): Promise<void> {
  const renew = installRandomInWorkers()
  // The same seed makes the two what they are in two copies of a process.
  setFlagsFromString('--random-seed=7')
  for (let count = 0; count < 2; count += 1) {
    const worker = new workerThreads.Worker(...made)
    workers.push(worker)
    await expect.poll(() => draw(worker), { timeout: 5000 }).toEqual([expect.any(Number), false])
  }
  setFlagsFromString('--random-seed=0')
  const [one, other] = workers as [Worker, Worker]
  const before = new Set<number>()
  for (let count = 0; count < 200; count += 1) before.add((await draw(one))[0])
  const sharedDraws = async () => {
    let shared = 0
    for (let count = 0; count < 50; count += 1) shared += before.has((await draw(other))[0]) ? 1 : 0
    return shared
  }
  expect(await sharedDraws()).toBeGreaterThan(40)
  renew()
  expect(await sharedDraws()).toBe(0)
  for (let count = 0; count < 2000; count += 1) {
    const [value] = await draw(other)
    expect(value >= 0 && value < 1).toBe(true)
  }
}
