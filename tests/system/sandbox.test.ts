import { Sandbox as CodeSandbox } from '@e2b/code-interpreter'
import { Sandbox } from 'e2b'
import { describe, expect, it } from 'vitest'
import { apiRequest } from './harness/clients.ts'

describe('the life of a sandbox', () => {
  it('is created, listed, killed and then gone', async () => {
    const sandbox = await Sandbox.create('base', { metadata: { purpose: 'life' } })
    const listed = await Sandbox.list({ query: { metadata: { purpose: 'life' } } }).nextItems()
    expect(listed.map((info) => info.sandboxId)).toEqual([sandbox.sandboxId])
    expect(await sandbox.isRunning()).toBe(true)
    expect(await sandbox.kill()).toBe(true)
    expect(await sandbox.isRunning()).toBe(false)
    expect(await Sandbox.kill(sandbox.sandboxId)).toBe(false)
    expect(await Sandbox.list({ query: { metadata: { purpose: 'life' } } }).nextItems()).toEqual([])
  })

  it('ends at its timeout', async () => {
    const sandbox = await Sandbox.create('base', { timeoutMs: 2_000 })
    const info = await sandbox.getInfo()
    const left = info.endAt.getTime() - Date.now()
    expect(left).toBeLessThanOrEqual(2_000)
    await expect.poll(() => sandbox.isRunning(), { timeout: 4_000, interval: 200 }).toBe(false)
  })

  it('lives on when the timeout is moved', async () => {
    const sandbox = await Sandbox.create('base', { timeoutMs: 60_000 })
    await sandbox.setTimeout(120_000)
    const { endAt } = await sandbox.getInfo()
    expect(endAt.getTime() - Date.now()).toBeGreaterThan(100_000)
    await sandbox.kill()
  })

  it('is connected to from a second client', async () => {
    const first = await Sandbox.create('base')
    await first.files.write('/home/user/seen', 'by both')
    const second = await Sandbox.connect(first.sandboxId)
    expect(await second.files.read('/home/user/seen')).toBe('by both')
    await first.kill()
  })

  it('runs two at once that share nothing', async () => {
    const [one, two] = await Promise.all([Sandbox.create('base'), Sandbox.create('base')])
    await one.files.write('/home/user/mine', 'one')
    expect(await two.files.exists('/home/user/mine')).toBe(false)
    const [first, second] = await Promise.all([one, two].map((sandbox) => sandbox.commands.run('hostname')))
    expect(first!.stdout).not.toBe(second!.stdout)
    await Promise.all([one.kill(), two.kill()])
  })
})

describe('running code', () => {
  it('keeps state, returns values, separates streams and reports errors', async () => {
    const sandbox = await CodeSandbox.create()
    await sandbox.runCode('x = 41')
    const value = await sandbox.runCode('import sys\nprint("out")\nprint("err", file=sys.stderr)\nx + 1')
    expect(value.text).toBe('42')
    expect(value.logs.stdout.join('')).toBe('out\n')
    expect(value.logs.stderr.join('')).toBe('err\n')
    const failed = await sandbox.runCode('1 / 0')
    expect(failed.error?.name).toBe('ZeroDivisionError')
    await sandbox.kill()
  })

  it('draws a matplotlib chart as PNG and as data', async () => {
    const sandbox = await CodeSandbox.create()
    const drawn = await sandbox.runCode(
      'import matplotlib.pyplot as plt\nplt.bar(["a", "b"], [1, 2])\nplt.title("T")\nplt.show()',
    )
    const result = drawn.results.find((each) => each.png)
    expect(Buffer.from(result!.png!, 'base64').subarray(1, 4).toString()).toBe('PNG')
    expect(result!.chart).toMatchObject({ type: 'bar', title: 'T' })
    await sandbox.kill()
  })
})

describe('output', () => {
  it('arrives whole and in order, however fast it is flushed', async () => {
    const sandbox = await CodeSandbox.create()
    const printed = await sandbox.runCode('for i in range(10_000): print(i, flush=True)', {
      timeoutMs: 50_000,
    })
    const lines = printed.logs.stdout.join('').trimEnd().split('\n')
    expect(lines).toEqual(Array.from({ length: 10_000 }, (_, index) => String(index)))
    await sandbox.kill()
  })
})

describe('refusals', () => {
  it('answers 401 to a wrong key', async () => {
    const response = await apiRequest('/v2/sandboxes', { key: `e2b_${'0'.repeat(40)}` })
    expect(response.status).toBe(401)
    expect(response.headers.get('should-retry')).toBe('false')
    expect(await response.json()).toMatchObject({ code: 401 })
  })

  it('answers 404 to an unknown template', async () => {
    await expect(Sandbox.create('no-such-template')).rejects.toThrow(/no-such-template/)
  })

  it('answers 400 to a malformed body', async () => {
    const response = await apiRequest('/v2/sandboxes', { method: 'POST', body: '{"timeout":-1}' })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ code: 400 })
  })

  it('creates one sandbox for one idempotency key', async () => {
    const create = () =>
      apiRequest('/v2/sandboxes', {
        method: 'POST',
        body: JSON.stringify({ templateID: 'base', timeout: 30 }),
        headers: { 'Idempotency-Key': 'once-and-only-once' },
      })
    const first = (await (await create()).json()) as { sandboxID: string }
    const second = (await (await create()).json()) as { sandboxID: string }
    expect(second.sandboxID).toBe(first.sandboxID)
    await Sandbox.kill(first.sandboxID)
  })
})
