/** Stacks of errors that a cell prints or keeps end where the cell begins: what lies below is the kernel's. */

/** Replaces how stacks are written, but for this end as Node does it. Code may replace it again. */
export function endStacksAtCells(): void {
  Object.defineProperty(Error, 'prepareStackTrace', { value: write, writable: true, configurable: true })
}

function write(error: Error, frames: readonly NodeJS.CallSite[]): string {
  const end = frames.findLastIndex((frame) => frame.getFileName() === 'node:inspector')
  const own = end < 0 ? frames : frames.slice(0, end)
  return [headOf(error), ...own].join('\n    at ')
}

function headOf(error: Error): string {
  try {
    return Error.prototype.toString.call(error)
  } catch {
    return '<error>'
  }
}
