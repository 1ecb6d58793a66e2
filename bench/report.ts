import { readFileSync, writeFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem } from 'node:os'

/** Markdown of results, and where it goes. */

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`
  const rule = head.map((_cell, column) => (column === 0 ? '---' : '---:'))
  return [line(head), line(rule), ...rows.map(line)].join('\n')
}

export const ms = (value: number): string => value.toFixed(value < 10 ? 1 : 0)

/** One sentence that says where the numbers come from. */
export function describeMachine(): string {
  const system = /^PRETTY_NAME="(.*)"$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'Linux'
  const memoryGb = Math.round(totalmem() / 2 ** 30)
  const [first] = cpus()
  const load = loadavg()[0]!.toFixed(1)
  return (
    `${cpus().length} cores (${first?.model.trim()}), ${memoryGb} GB, ${system}, Linux ${release().split('-')[0]}, ` +
    `Node ${process.versions.node}; load average at the start ${load}; ${new Date().toISOString().slice(0, 10)}`
  )
}

/** Replaces what stands between the markers of a benchmark in a README. */
export function writeInto(path: string, name: string, markdown: string): void {
  const text = readFileSync(path, 'utf8')
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`${path} has no place for '${name}'`)
  writeFileSync(path, `${text.slice(0, from + begin.length)}\n\n${markdown}\n\n${text.slice(to)}`)
}
