/** Nobody types into a cell: code that asks for input is told at once instead of waiting for ever. */
import { Readable } from 'node:stream'

export class NoInputError extends Error {
  override readonly name = 'StdinNotImplementedError'

  constructor() {
    super('Code in a cell cannot read standard input: write the value into the code')
  }
}

/** Takes over `process.stdin`: whoever reads it gets the error. */
export function refuseInput(): void {
  let input: Readable | undefined
  const open = (): Readable => {
    const stream = new Readable({
      read: () => {
        stream.destroy(new NoInputError())
      },
    })
    return Object.assign(stream, { fd: 0 })
  }
  Object.defineProperty(process, 'stdin', {
    configurable: true,
    enumerable: true,
    get: () => {
      if (input === undefined || input.destroyed) input = open()
      return input
    },
  })
}
