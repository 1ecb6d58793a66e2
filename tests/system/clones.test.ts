import { Sandbox } from '@e2b/code-interpreter'
import { expect, it } from 'vitest'

/** Two sandboxes come from one memory image: whatever must differ between machines must differ here. */
const SOURCES = {
  random: 'import random; random.random()',
  'numpy.random': 'import numpy; float(numpy.random.rand())',
  uuid4: 'import uuid; str(uuid.uuid4())',
  'os.urandom': 'import os; os.urandom(8).hex()',
  openssl: 'import ssl; ssl.RAND_bytes(8).hex()',
  hostname: 'import socket; socket.gethostname()',
  'machine id': 'open("/etc/machine-id").read()',
  'boot id': 'open("/proc/sys/kernel/random/boot_id").read()',
  'Math.random': 'import subprocess; subprocess.check_output(["node", "-p", "Math.random()"], text=True)',
}

it.each(Object.entries(SOURCES))('two clones differ in %s', async (_name, code) => {
  const clones = await Promise.all([Sandbox.create(), Sandbox.create()])
  const [first, second] = await Promise.all(clones.map((clone) => clone.runCode(code)))
  await Promise.all(clones.map((clone) => clone.kill()))
  expect(first!.error).toBeUndefined()
  expect(first!.text).toBeTruthy()
  expect(second!.text).toBeTruthy()
  expect(first!.text).not.toBe(second!.text)
})

it('a clone has the time of now, and its own id in its environment', async () => {
  const sandbox = await Sandbox.create()
  const { text } = await sandbox.runCode(
    'import time, os; (round(time.time()), os.environ["E2B_SANDBOX_ID"])',
  )
  const [, seconds, id] = /\((\d+), '(\w+)'\)/.exec(text!)!
  await sandbox.kill()
  expect(Math.abs(Number(seconds) - Date.now() / 1000)).toBeLessThan(30)
  expect(id).toBe(sandbox.sandboxId)
})
