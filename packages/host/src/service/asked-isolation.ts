import { Code, ConnectError } from '@connectrpc/connect'
import { ENGINE_NAMES } from '../engines/engine.ts'
import type { Isolation } from '../engines/engines.ts'

/** What a request says about the engine; undefined when it says nothing. @throws ConnectError invalid_argument */
export function askedIsolation(name: string): Isolation | undefined {
  if (name === '') return undefined
  const known = (['auto', ...ENGINE_NAMES] as const).find((each) => each === name)
  if (known) return known
  throw new ConnectError(
    `isolation '${name}' must be auto or one of ${ENGINE_NAMES.join(', ')}`,
    Code.InvalidArgument,
  )
}
