import { join } from 'node:path'
import { benchCreate } from './create.ts'
import { benchCycles } from './cycles.ts'
import { benchEngines } from './engines.ts'
import { benchInterpreter } from './interpreter.ts'
import { writeInto } from './report.ts'
import { benchSandbox } from './sandbox.ts'

/** `npm run bench -- <name> [--json] [--write]`: measures on this machine, prints markdown or JSON. */

const USAGE = `npm run bench -- <name> [options]

  create            start times against a bare restore, throughput, memory (about 3 minutes)
  sandbox           exec, PTY, watch, transfers, pause, memory against the bare tools (about 3 minutes)
  interpreter       code against Jupyter's own ways on the same kernel (about 2 minutes)
  engines [rounds]  each engine that boots here next to its floor, 30 creates by default (3 minutes an engine)
  cycles [count]    creates and kills, 300 by default: what is left, and whether the server's memory is flat

  --json   print what was measured instead of a table
  --write  put the tables into bench/README.md as well
  --help   this text

Needs root and a machine that 'npm run quickstart' has set up. Runs beside a server; best on a quiet machine.`

const readme = join(import.meta.dirname, 'README.md')

interface Bench {
  measure: (count: number) => Promise<{ markdown: string; results: object }>
  /** Where it takes one. */
  defaultCount?: number
}

const benches: ReadonlyMap<string, Bench> = new Map<string, Bench>([
  ['create', { measure: benchCreate }],
  ['sandbox', { measure: benchSandbox }],
  ['interpreter', { measure: benchInterpreter }],
  ['engines', { measure: benchEngines, defaultCount: 30 }],
  ['cycles', { measure: benchCycles, defaultCount: 300 }],
])

const LEAST_COUNT = 3

function printable(_key: string, value: unknown): unknown {
  return value instanceof Map ? Object.fromEntries(value) : value
}

const OPTIONS = ['--json', '--write', '--help']

/** Why these words are no use of the command; undefined where they are. */
function wrongUse(words: readonly string[], [name, count, ...more]: readonly string[]): string | undefined {
  const unknown = words.find((word) => word.startsWith('-') && !OPTIONS.includes(word))
  if (unknown) return `There is no option '${unknown}'`
  if (name === undefined) return 'Name a bench'
  const bench = benches.get(name)
  if (!bench) return `There is no bench '${name}'`
  if (more.length > 0 || (count !== undefined && bench.defaultCount === undefined)) {
    return `'${words.join(' ')}' is more than ${name} takes`
  }
  if (count === undefined || (/^\d+$/.test(count) && Number(count) >= LEAST_COUNT)) return undefined
  return `${name} takes a number of at least ${LEAST_COUNT}, not '${count}'`
}

async function main(words: readonly string[]): Promise<number> {
  if (words.includes('--help')) {
    process.stdout.write(`${USAGE}\n`)
    return 0
  }
  const operands = words.filter((word) => !word.startsWith('-'))
  const why = wrongUse(words, operands)
  if (why) {
    process.stderr.write(`${why}\n\n${USAGE}\n`)
    return 2
  }
  const [name = '', count] = operands
  const bench = benches.get(name)!
  const { markdown, results } = await bench.measure(Number(count ?? bench.defaultCount))
  process.stdout.write(`${words.includes('--json') ? JSON.stringify(results, printable, 2) : markdown}\n`)
  if (words.includes('--write')) writeInto(readme, name, markdown)
  return 'isClean' in results && !results.isClean ? 1 : 0
}

process.exitCode = await main(process.argv.slice(2))
