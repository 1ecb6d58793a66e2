/** What was thrown, as Jupyter's error: name, value, traceback with the frames of the user's code alone. */
import { describe } from './mime-bundle.ts'

export interface ErrorContent {
  ename: string
  evalue: string
  traceback: string[]
}

/** Frames of Node's inspector and of this kernel, which stand below the user's own. */
const FOREIGN_FRAME = /^\s+at .*(node:inspector|node:internal|javascript-kernel|kernels\/javascript\/src)/
const FIRST_FOREIGN_FRAME = /^\s+at Session\.post \(node:inspector/

export function describeThrown(thrown: unknown): ErrorContent {
  if (!(thrown instanceof Error) && !isErrorLike(thrown)) {
    const value = typeof thrown === 'string' ? thrown : describe(thrown)
    return { ename: 'Error', evalue: value, traceback: [`Uncaught ${describe(thrown)}`] }
  }
  const ename = String(thrown.name || 'Error')
  return { ename, evalue: String(thrown.message), traceback: [tracebackOf(thrown)] }
}

/** A syntax error knows no place in the code: it is shown above the message. */
export function describeSyntaxError(
  error: Error,
  place: { name: string; code: string; line: number; column: number },
): ErrorContent {
  const line = place.code.split('\n')[place.line - 1]
  const content = describeThrown(error)
  if (line === undefined || /\n\s+at cell-/.test(content.traceback.join(''))) return content
  const pointer = `${' '.repeat(Math.max(0, place.column - 1))}^`
  const head = `${place.name}:${place.line}:${place.column}\n${line}\n${pointer}\n`
  return { ...content, traceback: [`${head}${error.name}: ${error.message}`] }
}

const isErrorLike = (thrown: unknown): thrown is Error =>
  typeof thrown === 'object' && thrown !== null && 'stack' in thrown && 'message' in thrown

function tracebackOf(error: Error): string {
  const lines = String(error.stack ?? `${error.name}: ${error.message}`).split('\n')
  const end = lines.findIndex((line) => FIRST_FOREIGN_FRAME.test(line))
  const own = (end < 0 ? lines : lines.slice(0, end)).filter((line) => !FOREIGN_FRAME.test(line))
  const { cause } = error
  if (cause instanceof Error) own.push(`Caused by: ${tracebackOf(cause)}`)
  if (error instanceof AggregateError) own.push(...error.errors.slice(0, 10).map((each) => describe(each)))
  return own.join('\n')
}
