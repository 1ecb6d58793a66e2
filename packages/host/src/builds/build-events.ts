import { create, type MessageInitShape } from '@bufbuild/protobuf'
import { timestampFromMs } from '@bufbuild/protobuf/wkt'
import { Code, ConnectError } from '@connectrpc/connect'
import { type BuildEvent, BuildEventSchema, type BuildRequest } from '@sandbox/contract/gen/host/host_pb'
import { askedLimits } from '../cells/limits.ts'
import type { Limits } from '../engines/engine.ts'
import { askedIsolation } from '../service/asked-isolation.ts'
import { connectError } from '../service/connect-error.ts'
import type { BuildBase, Builder, BuildPlan } from './builder.ts'

/** A build as a stream of its log lines, then its result. */

/** Lines that wait for a slow reader; the build goes on, the oldest are dropped and that is said. */
const LONGEST_BACKLOG = 10_000

export async function* buildEvents(
  builder: Builder,
  request: BuildRequest,
  defaultLimits: Limits,
  signal: AbortSignal,
): AsyncGenerator<BuildEvent> {
  const backlog: BuildEvent[] = []
  let wake = (): void => {}
  let dropped = 0
  const log = (level: string, message: string, step: string): void => {
    if (backlog.length >= LONGEST_BACKLOG) {
      backlog.shift()
      dropped++
    }
    backlog.push(eventOf({ case: 'log', value: { at: timestampFromMs(Date.now()), level, message, step } }))
    wake()
  }
  let isDone = false
  const abort = new AbortController()
  const building = builder
    .build(
      planOf(request, defaultLimits),
      (line) => log(line.level, line.message, line.step),
      AbortSignal.any([signal, abort.signal]),
    )
    .finally(() => {
      isDone = true
      wake()
    })
  // Awaited below; a failure before that is not unhandled.
  building.catch(() => {})
  try {
    while (!isDone || backlog.length > 0) {
      for (let next = backlog.shift(); next; next = backlog.shift()) yield next
      if (!isDone) await new Promise<void>((resolve) => (wake = resolve))
    }
    const result = await building
    if (dropped > 0)
      log('warn', `${dropped} log lines were dropped: they came faster than they were read`, 'finalize')
    yield* backlog.splice(0)
    yield eventOf({ case: 'result', value: result })
  } catch (error) {
    throw connectError(error)
  } finally {
    abort.abort(new Error('the reader of the build left'))
    await building.catch(() => {})
  }
}

const eventOf = (event: NonNullable<MessageInitShape<typeof BuildEventSchema>['event']>): BuildEvent =>
  create(BuildEventSchema, { event })

function planOf(request: BuildRequest, defaultLimits: Limits): BuildPlan {
  return {
    buildId: request.buildId,
    base: baseOf(request.from),
    steps: request.steps,
    startCmd: request.startCmd,
    readyCmd: request.readyCmd,
    limits: { ...defaultLimits, ...askedLimits(request.resources) },
    isolation: askedIsolation(request.isolation),
    force: request.force,
  }
}

function baseOf(from: BuildRequest['from']): BuildBase {
  switch (from.case) {
    case 'fromSnapshotId':
      return { kind: 'snapshot', id: from.value }
    case 'fromDirectory':
      return { kind: 'directory', path: from.value }
    case 'fromImage':
      return { kind: 'image', name: from.value }
    default:
      throw new ConnectError(
        'a build needs a base: a snapshot, a directory or an image',
        Code.InvalidArgument,
      )
  }
}
