/** The lines of an execution's answer (NDJSON) and how kernel messages become them. */
import type { KernelMessage } from './kernel-message.ts'

export interface StreamError {
  type: 'error'
  name: string
  value: string
  traceback: string
}

export type StreamMessage =
  | { type: 'number_of_executions'; execution_count: number }
  | { type: 'stdout' | 'stderr'; text: string; timestamp: string }
  | ({ type: 'result'; is_main_result: boolean; extra: Record<string, unknown> } & Record<string, unknown>)
  | StreamError
  | { type: 'keepalive' }
  | { type: 'end_of_execution' }

const RESULT_KEYS: Readonly<Record<string, string>> = {
  'text/plain': 'text',
  'text/html': 'html',
  'text/markdown': 'markdown',
  'image/svg+xml': 'svg',
  'image/png': 'png',
  'image/jpeg': 'jpeg',
  'application/pdf': 'pdf',
  'text/latex': 'latex',
  'application/json': 'json',
  'application/javascript': 'javascript',
  'e2b/data': 'data',
  'e2b/chart': 'chart',
}

/** The stream message for a kernel message of an execution, or undefined when the user sees nothing of it. */
export function toStreamMessage(message: KernelMessage): StreamMessage | undefined {
  const { content } = message
  switch (message.type) {
    case 'execute_input':
      return { type: 'number_of_executions', execution_count: Number(content.execution_count) }
    case 'stream':
      return {
        type: content.name === 'stderr' ? 'stderr' : 'stdout',
        text: String(content.text),
        timestamp: message.date,
      }
    case 'execute_result':
      return toResult(content.data, true)
    case 'display_data':
      return toResult(content.data, false)
    case 'error':
      return toError(content)
    default:
      return undefined
  }
}

/** The error that a kernel's `error` message or failed `execute_reply` tells of. */
export function toError(content: Record<string, unknown>): StreamError {
  const traceback = content.traceback
  return {
    type: 'error',
    name: String(content.ename ?? ''),
    value: String(content.evalue ?? ''),
    traceback: Array.isArray(traceback) ? traceback.join('') : String(traceback ?? ''),
  }
}

/** An error that this service reports itself. */
export function syntheticError(name: string, value: string): StreamError {
  return { type: 'error', name, value, traceback: '' }
}

function toResult(data: unknown, isMainResult: boolean): StreamMessage {
  const known: Record<string, unknown> = {}
  const extra: Record<string, unknown> = {}
  for (const [mime, value] of Object.entries(data ?? {})) {
    if (value === null) continue
    const key = RESULT_KEYS[mime]
    if (key === undefined) extra[mime] = value
    else known[key] = key === 'text' ? stripQuotes(String(value)) : value
  }
  return { type: 'result', ...known, extra, is_main_result: isMainResult }
}

/** One pair of matching outer quotes is dropped, so that the text of a string is the string. */
function stripQuotes(text: string): string {
  const quoted = (text.startsWith("'") && text.endsWith("'")) || (text.startsWith('"') && text.endsWith('"'))
  return quoted ? text.slice(1, -1) : text
}
