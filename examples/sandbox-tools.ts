/** Two tools for a model, backed by one sandbox; `openai-tools.ts` and `anthropic-tools.ts` offer them. */
import { basename } from 'node:path'
import { CommandExitError, type Execution, type Sandbox } from '@e2b/code-interpreter'
import { saveResults } from './save-results.ts'

export const SYSTEM = 'You are a data analyst. Use the tools to compute; never guess a number. Be brief.'
export const TASK =
  'How do the monthly sales in /home/user/sales.csv develop? Draw them, and tell me the best month.'
export const SALES = 'month,sales\nJanuary,120\nFebruary,95\nMarch,143\nApril,171\nMay,166\n'

/** How often the model is asked before we give up on it. */
export const MAX_TURNS = 10

/** How long the sandbox lives: models take their time, and the default is five minutes. */
export const SANDBOX_TIMEOUT_MS = 15 * 60_000

/** Characters of one tool's output that the model gets to see; it pays for each. */
const MAX_OUTPUT = 10_000

/** Name, purpose and JSON Schema of each tool; the providers differ only in how they wrap this. */
export const TOOLS = [
  {
    name: 'run_code',
    description: 'Runs Python in a Jupyter kernel that keeps its state. Charts are shown to the user.',
    parameters: {
      type: 'object' as const,
      properties: { code: { type: 'string', description: 'Python source' } },
      required: ['code'],
    },
  },
  {
    name: 'run_command',
    description: 'Runs a shell command in /home/user, on the machine of run_code.',
    parameters: {
      type: 'object' as const,
      properties: { command: { type: 'string', description: 'Command line for bash' } },
      required: ['command'],
    },
  },
]

/** Runs what the model calls. Results that a person can look at are written to a directory. */
export class SandboxTools {
  readonly #sandbox: Sandbox
  readonly #directory: string
  #executions = 0

  constructor(sandbox: Sandbox, directory: string) {
    this.#sandbox = sandbox
    this.#directory = directory
  }

  /** The tool's output. Failures are output too: a model that reads its error can correct itself. */
  async call(name: string, input: unknown): Promise<string> {
    const output = await this.#run(name, input).catch((error: unknown) => String(error))
    console.log(`${name} -> ${output.slice(0, 200).trimEnd()}`)
    return output.slice(0, MAX_OUTPUT)
  }

  async #run(name: string, input: unknown): Promise<string> {
    if (name === 'run_code') return this.#runCode(argument(input, 'code'))
    if (name === 'run_command') return this.#runCommand(argument(input, 'command'))
    return `There is no tool '${name}'.`
  }

  async #runCode(code: string): Promise<string> {
    const execution = await this.#sandbox.runCode(code, { timeoutMs: 60_000 })
    this.#executions += 1
    return describe(execution, saveResults(execution, this.#directory, `execution-${this.#executions}`))
  }

  async #runCommand(command: string): Promise<string> {
    try {
      const result = await this.#sandbox.commands.run(command, { timeoutMs: 60_000 })
      return `${result.stdout}${result.stderr}` || 'done'
    } catch (failed) {
      if (!(failed instanceof CommandExitError)) throw failed
      return `${failed.stdout}${failed.stderr}exit code ${failed.exitCode}`
    }
  }
}

/** Models mostly keep to the schema; whoever relies on it checks. */
function argument(input: unknown, name: string): string {
  const value: unknown = Object(input)[name]
  if (typeof value !== 'string') throw new TypeError(`The argument '${name}' has to be a string.`)
  return value
}

/** An execution in words, for the model. */
function describe({ logs, text, error }: Execution, saved: string[]): string {
  // Both streams come in pieces that end anywhere.
  const parts = [logs.stdout.join(''), logs.stderr.join('')]
  if (text) parts.push(text)
  if (error) parts.push(`${error.name}: ${error.value}\n${error.traceback}`)
  // A text file holds what the model has just read.
  const shown = saved.filter((path) => !path.endsWith('.txt'))
  parts.push(...shown.map((path) => `Shown to the user: ${basename(path)}`))
  const said = parts.filter(Boolean).map((part) => part.trimEnd())
  return said.join('\n') || 'done'
}
