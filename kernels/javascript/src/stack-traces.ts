/** Stacks of errors that a cell prints or keeps end where the cell begins: what lies below is the kernel's. */

/** Replaces how stacks are written, but for this end as Node does it. Code may replace it again. */
export function endStacksAtCells(): void {
  const write = Error.prepareStackTrace
  const value = (error: Error, frames: NodeJS.CallSite[]): unknown => {
    const end = frames.findLastIndex((frame) => frame.getFileName() === 'node:inspector')
    return write(error, end < 0 ? frames : frames.slice(0, end))
  }
  Object.defineProperty(Error, 'prepareStackTrace', { value, writable: true, configurable: true })
}
