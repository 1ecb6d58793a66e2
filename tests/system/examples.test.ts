import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Sandbox } from 'e2b'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Outcome, python, runClientProgram } from './harness/client-program.ts'
import { type Script, startModelServer } from './harness/model-server.ts'
import { readPng } from './harness/png.ts'

const results = mkdtempSync(join(tmpdir(), 'e2b-examples-'))

/** Sandboxes that other tests left; the examples have to add none. */
let before: string[]

async function listSandboxes(): Promise<string[]> {
  const paginator = Sandbox.list()
  const ids: string[] = []
  while (paginator.hasNext) ids.push(...(await paginator.nextItems()).map((info) => info.sandboxId))
  return ids.sort()
}

/** Runs an example as a user does. */
const runExample = (name: string, args: string[] = [], env: NodeJS.ProcessEnv = {}): Promise<Outcome> =>
  runClientProgram(name.endsWith('.py') ? python : process.execPath, [join('examples', name), ...args], env)

interface ModelOutcome extends Outcome {
  /** The user's question, as the model got it. */
  prompt: string
  /** What the calls of its tools came to. */
  told: readonly string[]
  dir: string
  /** What the example saved in `dir`. */
  files: string[]
}

/** Runs an example with a scripted model in the real one's place. */
async function runWithModel(name: string, script: Script): Promise<ModelOutcome> {
  const dir = mkdtempSync(join(results, `${name}-`))
  const model = await startModelServer(script)
  try {
    const outcome = await runExample(name, [dir], model.environment)
    return { ...outcome, prompt: model.prompt(), told: model.results(), dir, files: readdirSync(dir).sort() }
  } finally {
    await model.close()
  }
}

beforeAll(async () => {
  before = await listSandboxes()
})

afterAll(async () => {
  rmSync(results, { recursive: true, force: true })
  expect(await listSandboxes()).toEqual(before)
})

it('the quickstart runs and saves its chart', async () => {
  const chart = join(results, 'chart.png')
  const { status, output } = await runExample('quickstart.py', [chart])
  expect(status, output).toBe(0)
  expect(output).toContain('hello from the sandbox')
  expect(output).toContain('ZeroDivisionError: division by zero')
  expect(readFileSync(chart).subarray(1, 4).toString()).toBe('PNG')
})

describe.concurrent("a model's code in a sandbox", () => {
  const CHART = `import matplotlib.pyplot as plt

languages = ["Python", "C++", "Java", "C", "C#"]
plt.figure(figsize=(8, 5))
plt.bar(languages, [23.1, 10.3, 9.6, 9.0, 5.4], color="steelblue")
plt.title("Top 5 programming languages by popularity")
plt.ylabel("Share (%)")
plt.show()
len(languages)
`

  it('draws a chart that lies on disk as a PNG', async () => {
    const script: Script = () => ({ text: `\`\`\`python\n${CHART}\`\`\`` })
    const { status, output, prompt, dir, files } = await runWithModel('model_code.py', script)
    expect(status, output).toBe(0)
    expect(prompt).toContain('bar chart of the top 5 programming languages by popularity')
    expect(output).toMatch(/^5$/m)
    expect(files).toEqual(['result-1.chart.json', 'result-1.png', 'result-2.txt'])
    const { width, height, shades } = readPng(join(dir, 'result-1.png'))
    expect(width).toBeGreaterThan(400)
    expect(height).toBeGreaterThan(300)
    expect(shades).toBeGreaterThan(10)
    expect(JSON.parse(readFileSync(join(dir, 'result-1.chart.json'), 'utf8'))).toMatchObject({ type: 'bar' })
  })

  it('names the error that the code raises', async () => {
    const { status, output, files } = await runWithModel('model_code.py', () => ({ text: 'colour + 1' }))
    expect(status, output).toBe(0)
    expect(output).toContain("NameError: name 'colour' is not defined")
    expect(files).toEqual([])
  })
})

/** Two calls at once, three that fail, one that draws, then words made of what the sandbox said. */
const analyst: Script = (turn, told) => {
  const code = (source: string) => ({ name: 'run_code', input: { code: source } })
  const command = (line: string) => ({ name: 'run_command', input: { command: line } })
  const load = 'import pandas as pd\nsales = pd.read_csv("/home/user/sales.csv")\nlen(sales)'
  const draw = `import matplotlib.pyplot as plt
sales.plot.bar(x="month", y="sales", title="Sales by month")
plt.show()
print(sales.loc[sales["sales"].idxmax(), "month"])`
  switch (turn) {
    case 0:
      return { text: 'I look at the data.', calls: [command('head -2 sales.csv'), code(load)] }
    case 1:
      return {
        calls: [code('sales["revenue"].max()'), command('cat missing.csv'), { name: 'run_code', input: {} }],
      }
    case 2:
      return { calls: [code(draw)] }
    default:
      return { text: `The best month was ${told[0]?.split('\n')[0]}.` }
  }
}

describe.concurrent.each(['openai_tools.py', 'openai-tools.ts', 'anthropic_tools.py', 'anthropic-tools.ts'])(
  'tool calling: %s',
  (name) => {
    it('works in one sandbox over several turns', async () => {
      const { status, output, told, dir } = await runWithModel(name, analyst)
      expect(status, output).toBe(0)
      const [head, length, keyError, missing, noCode, drawn] = told
      expect(head).toBe('month,sales\nJanuary,120\n')
      expect(length).toBe('5')
      expect(keyError).toContain("KeyError: 'revenue'")
      expect(missing).toMatch(/No such file or directory\nexit code 1$/)
      expect(noCode).toContain("'code'")
      expect(drawn).toMatch(/^April\n.*Shown to the user: execution-3-1\.png/s)
      expect(output).toContain('The best month was April.')
      const { width, height, shades } = readPng(join(dir, 'execution-3-1.png'))
      expect(Math.min(width, height)).toBeGreaterThan(300)
      expect(shades).toBeGreaterThan(10)
    })

    it('gives up on a model that never finishes', async () => {
      const { status, output, told } = await runWithModel(name, (turn) => ({
        calls: [{ name: 'run_command', input: { command: `echo ${turn}` } }],
      }))
      expect(status).not.toBe(0)
      expect(output).toContain('The model has not finished after 10 turns.')
      expect(told).toEqual(Array.from({ length: 9 }, (_, turn) => `${turn}\n`))
    })
  },
)

describe.concurrent.each(['.py', '.ts'])('small examples, %s', (ending) => {
  const spelled = (name: string): string => (ending === '.py' ? name.replace('-', '_') : name) + ending

  it('carries files up and down', async () => {
    const { status, output } = await runExample(spelled('files'), ['LICENSE'])
    expect(status, output).toBe(0)
    expect(output).toMatch(/\/home\/user\/upload\.gz: \d+ bytes/)
    expect(output).toContain('LICENSE: compressed in the sandbox, unchanged after the trip')
  })

  it('reaches a server in the sandbox by its URL', async () => {
    const { status, output } = await runExample(spelled('background-server'))
    expect(status, output).toBe(0)
    expect(output).toMatch(/^https:\/\/8000-[a-z0-9]+\./)
    expect(output).toContain('<h1>Served from a sandbox</h1>')
  })

  it('works in two sandboxes at once', async () => {
    const { status, output } = await runExample(spelled('parallel'))
    expect(status, output).toBe(0)
    expect(new Set(output.match(/^[a-z0-9]+(?=: )/gm))).toHaveProperty('size', 2)
    expect(output).toContain('9592 primes below 100000')
  })
})
