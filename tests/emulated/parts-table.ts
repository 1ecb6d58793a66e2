/** What a run of parts came to: a row for each engine, a column for each part. */

export interface PartResult {
  /** As it is asked for, e.g. `gvisor`, `microvm/firecracker`. */
  engine: string
  part: string
  passed: number
  failed: number
  seconds: number
}

const cell = ({ passed, failed, seconds }: PartResult): string =>
  `${failed > 0 ? `${passed} of ${passed + failed}` : passed} · ${Math.round(seconds)} s`

/** For people: `cases passed · seconds`; a part that an engine has no cases of is empty. */
export function partsTable(results: readonly PartResult[]): string {
  const parts = [...new Set(results.map(({ part }) => part))]
  const engines = [...new Set(results.map(({ engine }) => engine))]
  const rows = engines.map((engine) => {
    const own = results.filter((result) => result.engine === engine)
    const found = parts.map((part) => own.find((result) => result.part === part))
    return [engine, ...found.map((result) => (result ? cell(result) : '')), cell(sum(own))]
  })
  const table = [['', ...parts, 'all'], ...rows]
  const widths = table[0]!.map((_, column) => Math.max(...table.map((row) => row[column]!.length)))
  return table
    .map((row) =>
      row
        .map((text, column) => text.padEnd(widths[column]!))
        .join('  ')
        .trimEnd(),
    )
    .join('\n')
}

export function sum(results: readonly PartResult[]): PartResult {
  const total = (of: (result: PartResult) => number): number =>
    results.reduce((whole, result) => whole + of(result), 0)
  return {
    engine: '',
    part: '',
    passed: total(({ passed }) => passed),
    failed: total(({ failed }) => failed),
    seconds: total(({ seconds }) => seconds),
  }
}
