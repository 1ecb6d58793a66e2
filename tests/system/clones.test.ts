/** Sandboxes that come from one memory image: whatever must differ between machines must differ here. */
import { Sandbox } from '@e2b/code-interpreter'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { apiRequest } from './harness/clients.ts'
import { beginDraws, DRAW_NAMES, drawAll } from './harness/draws.ts'

const CLOCK_IS_RIGHT_MS = 1_000
const made: Sandbox[] = []
afterAll(() => Promise.all(made.map((sandbox) => sandbox.kill())))

async function create(template?: string): Promise<Sandbox> {
  const options = { timeoutMs: 300_000 }
  const sandbox = await (template === undefined ? Sandbox.create(options) : Sandbox.create(template, options))
  made.push(sandbox)
  return sandbox
}

const WEB_SERVER =
  'python3 -c "import http.server, socket' +
  '\nclass H(http.server.BaseHTTPRequestHandler):' +
  '\n  def do_GET(self): self.send_response(200); self.end_headers(); self.wfile.write(socket.gethostname().encode())' +
  '\n  def log_message(self, *a): pass' +
  "\nhttp.server.ThreadingHTTPServer(('0.0.0.0', 8123), H).serve_forever()\""

describe('two sandboxes of the template differ in', () => {
  let drawn: Map<string, string>[]
  beforeAll(async () => {
    const clones = await Promise.all([create(), create()])
    await Promise.all(clones.map(beginDraws))
    drawn = await Promise.all(clones.map(drawAll))
    await Promise.all(clones.map((clone) => clone.kill()))
  })
  it.each(DRAW_NAMES)('%s', (name) => expectAllDifferent(drawn, name))
})

describe('a sandbox with warm kernels, its clones and forks', () => {
  let all: Sandbox[]
  let drawn: Map<string, string>[]
  let snapshotId: string
  beforeAll(async () => {
    const source = await create()
    await beginDraws(source)
    await drawAll(source)
    await source.commands.run(WEB_SERVER, { background: true })
    snapshotId = (await source.createSnapshot()).snapshotId
    const clones = await Promise.all([create(snapshotId), create(snapshotId)])
    const forks = (await source.fork({ count: 3, timeoutMs: 300_000 })).map((fork) => {
      if (fork instanceof Error) throw fork
      made.push(fork)
      return fork
    })
    all = [...clones, ...forks, source]
    drawn = await Promise.all(all.map(drawAll))
  })

  it.each(DRAW_NAMES)('differ in %s', (name) => expectAllDifferent(drawn, name))

  it('have the time of now', async () => {
    const clocks = { python: 'import time; time.time() * 1000', javascript: 'Date.now()' }
    for (const sandbox of all) {
      for (const [language, code] of Object.entries(clocks)) {
        const beganMs = Date.now()
        const { text } = await sandbox.runCode(code, { language })
        expect(Number(text)).toBeGreaterThan(beganMs - CLOCK_IS_RIGHT_MS)
        expect(Number(text)).toBeLessThan(Date.now() + CLOCK_IS_RIGHT_MS)
      }
    }
  })

  it('listen on the same port, each for itself', async () => {
    const answers = await Promise.all(
      all.map(async (sandbox) => (await fetch(`https://${sandbox.getHost(8123)}`)).text()),
    )
    expect(answers).toEqual(all.map((sandbox) => sandbox.sandboxId))
  })

  it('have tokens of their own', async () => {
    const bodies = await Promise.all(
      [0, 1].map(async () => {
        const answer = await apiRequest('/sandboxes', {
          method: 'POST',
          body: JSON.stringify({
            templateID: snapshotId,
            secure: true,
            network: { allowPublicTraffic: false },
          }),
        })
        return (await answer.json()) as Record<string, string>
      }),
    )
    await Promise.all(bodies.map(({ sandboxID }) => Sandbox.kill(sandboxID!)))
    for (const name of ['sandboxID', 'envdAccessToken', 'trafficAccessToken']) {
      expect(bodies[0]![name]).toBeTruthy()
      expect(bodies[0]![name]).not.toBe(bodies[1]![name])
    }
  })
})

it('a sandbox that is paused and resumed goes on with its own numbers', async () => {
  const sandbox = await create()
  const seeds = {
    python: 'import random, numpy; random.seed(1); numpy.random.seed(1)',
    r: 'set.seed(1)',
    bash: 'RANDOM=1',
  }
  const draws = {
    python: 'import numpy; print(random.random(), numpy.random.rand())',
    r: 'cat(runif(1))',
    bash: 'echo $RANDOM',
  }
  const draw = async (): Promise<string[]> => {
    const drawn: string[] = []
    for (const [language, code] of Object.entries(draws)) {
      const { logs } = await sandbox.runCode(code, { language })
      drawn.push(logs.stdout.join(''))
    }
    return drawn
  }
  const seed = async (): Promise<void> => {
    for (const [language, code] of Object.entries(seeds)) await sandbox.runCode(code, { language })
  }
  await seed()
  const expected = [await draw(), await draw()]
  await seed()
  const first = await draw()
  await sandbox.pause()
  await sandbox.connect()
  expect([first, await draw()]).toEqual(expected)
})

function expectAllDifferent(drawn: readonly Map<string, string>[], name: string): void {
  const values = drawn.map((one) => one.get(name))
  expect(values).not.toContain('')
  expect(new Set(values).size).toBe(drawn.length)
}
