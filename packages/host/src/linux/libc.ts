/**
 * The one place that loads libc. Every wrapper in this folder goes through `checked`, so a failed call is
 * always an `Error` with `code`, `errno`, `syscall` and, where there is one, `path`.
 */
import { constants } from 'node:os'
import { getSystemErrorName } from 'node:util'
import koffi, { type KoffiFunc, type LibraryHandle } from 'koffi'

/** Number, text or memory handed to libc; null is a null pointer. */
export type NativeArgument = number | bigint | string | Uint8Array | null
export type NativeFunction = (...args: NativeArgument[]) => number

let library: LibraryHandle | undefined

function libc(): LibraryHandle {
  library ??= koffi.load('libc.so.6')
  return library
}

/** A function of libc by its C types, bound on first use. */
export function libcFunction(name: string, result: string, parameters: readonly string[]): NativeFunction {
  let bound: NativeFunction | undefined
  return (...args) => {
    bound ??= libc().func(name, result, [...parameters]) as NativeFunction
    return bound(...args)
  }
}

/**
 * The same on a worker thread, for calls that may wait for a disk. The caller learns only that it failed: errno is
 * a matter of the thread. Memory passed in must stay as it is until the promise settles.
 */
export function libcFunctionInBackground(
  name: string,
  result: string,
  parameters: readonly string[],
): (...args: NativeArgument[]) => Promise<number> {
  let bound: KoffiFunc<NativeFunction> | undefined
  return (...args) =>
    new Promise((resolve, reject) => {
      bound ??= libc().func(name, result, [...parameters])
      bound.async(...args, (error: Error | null, value: number) => (error ? reject(error) : resolve(value)))
    })
}

/** A system call by number, for those that older C libraries do not wrap. */
export function systemCall(number: number, parameters: readonly string[]): NativeFunction {
  const call = libcFunction('syscall', 'long', ['long', ...parameters])
  return (...args) => call(number, ...args)
}

/** A failed system call, shaped as Node's own: `code` is the errno name, e.g. `ENOENT`. */
export class SystemError extends Error {
  readonly code: string
  readonly errno: number
  readonly syscall: string
  readonly path: string | undefined

  constructor(errno: number, syscall: string, path?: string, detail?: string) {
    const code = nameOf(errno)
    super(`${code}: ${syscall}${path === undefined ? '' : ` '${path}'`}${detail ? `: ${detail}` : ''}`)
    this.name = 'SystemError'
    this.code = code
    this.errno = -errno
    this.syscall = syscall
    this.path = path
  }
}

/** Passes a result through, or throws the errno it stands for. Must be the first thing after the call. */
export function checked(result: number, syscall: string, path?: string): number {
  if (result >= 0) return result
  throw new SystemError(koffi.errno(), syscall, path)
}

/** The errno name of anything thrown by this folder or by node:fs; undefined for other values. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined
  const { code, errno }: NodeJS.ErrnoException = error
  if (typeof code !== 'string') return undefined
  // Node has no name of its own for some numbers, EDQUOT among them.
  return code.startsWith('Unknown system error') ? nameOf(-(errno ?? 0)) : code
}

const nameOf = (errno: number): string =>
  Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? getSystemErrorName(-errno)
