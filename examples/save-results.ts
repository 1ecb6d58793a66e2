import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Execution, Result } from '@e2b/code-interpreter'

const BINARY = { png: 'png', jpeg: 'jpg', pdf: 'pdf' } as const
const TEXT = { svg: 'svg', html: 'html', markdown: 'md', latex: 'tex', javascript: 'js' } as const
const DATA = { json: 'json', data: 'data.json', chart: 'chart.json' } as const

/**
 * Writes every format of every result as `<name>-<number>.<ending>`; answers with the paths.
 *
 * A result comes in several formats: a matplotlib figure is an image and a text such as `<Figure size 640x480>`.
 * The text is written only where there is nothing better.
 */
export function saveResults(execution: Execution, directory: string, name = 'result'): string[] {
  mkdirSync(directory, { recursive: true })
  return execution.results.flatMap((result, index) =>
    Object.entries(contentsOf(result)).map(([ending, content]) => {
      const path = join(directory, `${name}-${index + 1}.${ending}`)
      writeFileSync(path, content)
      return path
    }),
  )
}

type Format = keyof typeof BINARY | keyof typeof TEXT | keyof typeof DATA

/** What there is to write, by file ending. */
function contentsOf(result: Result): Record<string, string | Buffer> {
  const contents: Record<string, string | Buffer> = {}
  const add = (
    endings: Partial<Record<Format, string>>,
    encode: (value: unknown) => string | Buffer,
  ): void => {
    for (const [format, ending] of Object.entries(endings)) {
      const value = result[format as Format]
      if (value) contents[ending] = encode(value)
    }
  }
  add(BINARY, (value) => Buffer.from(String(value), 'base64'))
  add(TEXT, String)
  add(DATA, (value) => JSON.stringify(value, null, 2))
  if (result.text && Object.keys(contents).length === 0) contents.txt = result.text
  return contents
}
