import { openSync } from 'node:fs'
import { Socket } from 'node:net'
import { constants } from 'node:os'
import { join } from 'node:path'
import { ReadStream } from 'node:tty'
import { closeDescriptor, openPipe, openTerminal } from '../system/kernel.ts'
import { errorCode } from '../system/paths.ts'
import type { User } from '../system/users.ts'
import { type Child, spawn } from './spawn.ts'

/** A program to run, with everything already decided. */
export interface LaunchSpec {
  readonly command: string
  readonly args: readonly string[]
  readonly user: User
  /** Absolute path. */
  readonly cwd: string
  /** The whole environment. */
  readonly env: Readonly<Record<string, string>>
  /** Processes and threads that the user may have, this one included; undefined = no limit but the sandbox's. */
  readonly maxProcesses: number | undefined
  /** False = /dev/null. Ignored with a terminal. */
  readonly stdin: boolean
  /** Present = output goes to this file, replaced at each start, instead of to pipes. */
  readonly logFile?: string
  /** Present = a pseudo terminal of this size in characters. */
  readonly terminal?: { readonly cols: number; readonly rows: number }
}

/** The two ends of a started program: its pid's owner and our sides of its pipes. */
export interface Launched {
  readonly child: Child
  readonly stdin?: Socket
  readonly stdout?: Socket
  readonly stderr?: Socket
  readonly terminal?: ReadStream
}

/** The program could not be started; `step` is what failed (`cwd`, `uid`, …), `code` the errno name. */
export class LaunchError extends Error {
  readonly step: string
  readonly code: string

  constructor(step: string, code: string) {
    super(`${step}: ${ERRNO_WORDS.get(code) ?? code}`)
    this.name = 'LaunchError'
    this.step = step
    this.code = code
  }
}

const ERRNO_WORDS = new Map([
  ['ENOENT', 'no such file or directory'],
  ['EACCES', 'permission denied'],
  ['EPERM', 'operation not permitted'],
  ['ENOTDIR', 'not a directory'],
  ['EAGAIN', 'resource temporarily unavailable'],
  ['ENOMEM', 'cannot allocate memory'],
  ['E2BIG', 'argument list too long'],
  ['EINVAL', 'invalid argument'],
])

const OOM_SCORE = '100'
const NICE = '0'
const IO_PRIORITY = 'be:4'
const STATUS_FD = 3

function launcherArgs(spec: LaunchSpec): string[] {
  const { user } = spec
  return [
    ...['--uid', `${user.uid}`, '--gid', `${user.gid}`, '--groups', user.groups.join(',')],
    ...['--oom', OOM_SCORE, '--nice', NICE, '--ionice', IO_PRIORITY, '--cwd', spec.cwd],
    ...(spec.maxProcesses === undefined ? [] : ['--nproc', `${spec.maxProcesses}`]),
    ...['--status-fd', `${STATUS_FD}`, ...(spec.terminal ? ['--tty'] : [])],
    ...['--', spec.command, ...spec.args],
  ]
}

/**
 * Starts a program through the native launcher. Resolves once the program itself runs (or has failed to be
 * found, which it reports itself with exit code 126 or 127).
 *
 * @throws LaunchError when identity, directory or terminal could not be set up, or a string has a NUL
 */
export async function launch(spec: LaunchSpec, nativeDir: string): Promise<Launched> {
  requireNoNul(spec)
  const { ends, status } = openAllOrNone((noted) => ({
    ends: openEnds(spec, noted),
    status: noted(openPipe()),
  }))
  const [statusRead, statusWrite] = status
  const descriptors = [...ends.childSide, statusWrite]
  let child: Child
  try {
    child = spawn({ file: join(nativeDir, 'launch'), args: launcherArgs(spec), env: spec.env, descriptors })
  } catch (error) {
    ends.discard()
    closeDescriptor(statusRead)
    throw new LaunchError('spawn', errorCode(error) ?? 'EIO')
  } finally {
    for (const fd of new Set(descriptors)) closeDescriptor(fd)
  }
  const failure = await readLine(statusRead)
  if (!failure) return { child, ...ends.ours() }
  ends.discard()
  const [step, code] = failure.split(' ')
  throw new LaunchError(step ?? 'start', errnoName(code ?? ''))
}

/** The kernel's strings end at a NUL: what stands behind one would be lost without a word. */
function requireNoNul({ command, args, cwd, env }: LaunchSpec): void {
  const strings = [command, ...args, cwd, ...Object.entries(env).flat()]
  if (strings.some((text) => text.includes('\0'))) throw new LaunchError('exec', 'EINVAL')
}

interface Ends {
  /** Descriptors for 0, 1 and 2 of the child. */
  readonly childSide: number[]
  ours(): Omit<Launched, 'child'>
  discard(): void
}

/** Takes what was opened into account, and gives it back. */
type Noted = <Fds extends number | readonly number[]>(fds: Fds) => Fds

/** When `open` fails, the descriptors that it has noted by then are closed. */
function openAllOrNone<Result>(open: (noted: Noted) => Result): Result {
  const opened: number[] = []
  try {
    return open((fds) => {
      const list: readonly number[] = typeof fds === 'number' ? [fds] : fds
      opened.push(...list)
      return fds
    })
  } catch (error) {
    opened.forEach(closeDescriptor)
    throw error
  }
}

function openEnds(spec: LaunchSpec, noted: Noted): Ends {
  if (spec.terminal) return openTerminalEnds(spec.terminal, noted)
  return spec.logFile === undefined ? openPipeEnds(spec.stdin, noted) : openLogEnds(spec.logFile, noted)
}

function openLogEnds(logFile: string, noted: Noted): Ends {
  const log = noted(openSync(logFile, 'w', 0o600))
  const none = noted(openSync('/dev/null', 'r'))
  return { childSide: [none, log, log], ours: () => ({}), discard: () => {} }
}

function openPipeEnds(withStdin: boolean, noted: Noted): Ends {
  const stdin = withStdin ? noted(openPipe()) : undefined
  const stdout = noted(openPipe())
  const stderr = noted(openPipe())
  const ourFds = [...(stdin ? [stdin[1]] : []), stdout[0], stderr[0]]
  return {
    childSide: [stdin ? stdin[0] : noted(openSync('/dev/null', 'r')), stdout[1], stderr[1]],
    ours: () => ({
      ...(stdin ? { stdin: new Socket({ fd: stdin[1], readable: false, writable: true }) } : {}),
      stdout: new Socket({ fd: stdout[0], readable: true, writable: false }),
      stderr: new Socket({ fd: stderr[0], readable: true, writable: false }),
    }),
    discard: () => ourFds.forEach(closeDescriptor),
  }
}

function openTerminalEnds(size: { cols: number; rows: number }, noted: Noted): Ends {
  const { master, slave } = openTerminal(size)
  noted([master, slave])
  return {
    childSide: [slave, slave, slave],
    ours: () => ({ terminal: new ReadStream(master) }),
    discard: () => closeDescriptor(master),
  }
}

/** Everything written to the status pipe; empty when it closed without a word, which means success. */
function readLine(fd: number): Promise<string> {
  return new Promise((resolve) => {
    let text = ''
    const status = new Socket({ fd, readable: true, writable: false })
    status.on('data', (chunk: Buffer) => {
      text += chunk.toString('latin1')
    })
    status.once('error', () => resolve(text.trim()))
    status.once('close', () => resolve(text.trim()))
  })
}

function errnoName(code: string): string {
  if (!/^\d+$/.test(code)) return code
  return Object.entries(constants.errno).find(([, value]) => value === Number(code))?.[0] ?? `E${code}`
}
