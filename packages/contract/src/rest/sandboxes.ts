import { type Static, Type } from 'typebox'
import { ErrorBody } from './errors.ts'
import { SandboxNetworkConfig } from './network.ts'

/** Sandbox bodies of the REST API. Timeouts are whole seconds, memory and disk are MiB. */

const StringMap = Type.Record(Type.String(), Type.String())

const VolumeMount = Type.Object({ name: Type.String(), path: Type.String() })

const IamToken = Type.Object({
  audience: Type.String({ minLength: 1 }),
  tokenType: Type.Literal('JWT-SVID'),
})

const newSandboxFields = {
  templateID: Type.String({
    minLength: 1,
    description: 'Template id or name, `namespace/name`, or a snapshot, each with an optional `:tag`',
  }),
  autoPause: Type.Optional(Type.Boolean({ description: 'Pause instead of kill at the end of the timeout' })),
  autoPauseMemory: Type.Optional(
    Type.Boolean({ description: 'Keep memory at an automatic pause; false needs autoPause' }),
  ),
  autoResume: Type.Optional(Type.Object({ enabled: Type.Boolean() })),
  allow_internet_access: Type.Optional(Type.Union([Type.Boolean(), Type.Null()])),
  network: Type.Optional(SandboxNetworkConfig),
  metadata: Type.Optional(StringMap),
  envVars: Type.Optional(StringMap),
  mcp: Type.Optional(Type.Union([Type.Record(Type.String(), Type.Unknown()), Type.Null()])),
  iam: Type.Optional(
    Type.Object({
      tokens: Type.Optional(Type.Record(Type.String({ minLength: 1 }), IamToken, { maxProperties: 5 })),
    }),
  ),
  volumeMounts: Type.Optional(Type.Array(VolumeMount)),
}

const timeoutSeconds = (fallback: number) =>
  Type.Optional(Type.Integer({ default: fallback, description: 'Seconds until the sandbox ends' }))

/** Body of POST /sandboxes. `secure` is accepted and ignored: every sandbox is secured. */
export const NewSandbox = Type.Object({
  ...newSandboxFields,
  timeout: timeoutSeconds(15),
  secure: Type.Optional(Type.Boolean()),
})

/** Body of POST /v2/sandboxes. */
export const NewSandboxV2 = Type.Object({ ...newSandboxFields, timeout: timeoutSeconds(300) })
export type NewSandboxV2 = Static<typeof NewSandboxV2>

/** Body of POST /sandboxes/{id}/connect. */
export const ConnectSandbox = Type.Object({
  timeout: Type.Integer({ minimum: 0 }),
  memory: Type.Optional(Type.Boolean({ default: true })),
})

/** Body of POST /v2/sandboxes/{id}/connect; the whole body may be missing. */
export const ConnectSandboxV2 = Type.Object({
  timeout: Type.Optional(Type.Integer({ minimum: 0, default: 300 })),
  memory: Type.Optional(Type.Boolean({ default: true })),
})

/** Body of POST /sandboxes/{id}/resume; the whole body may be missing. */
export const ResumeSandbox = Type.Object({
  timeout: Type.Optional(Type.Integer({ minimum: 0, default: 15 })),
  autoPause: Type.Optional(Type.Boolean({ deprecated: true })),
  memory: Type.Optional(Type.Boolean({ default: true })),
})

/** Body of POST /sandboxes/{id}/pause; the whole body may be missing. */
export const PauseSandbox = Type.Object({
  memory: Type.Optional(Type.Boolean({ default: true, description: 'False keeps the files only' })),
  requireHealthyGuest: Type.Optional(
    Type.Boolean({ default: false, description: 'Refuse with 503 when the agent does not answer' }),
  ),
})

/** Body of POST /sandboxes/{id}/fork; the whole body may be missing. */
export const ForkSandbox = Type.Object({
  timeout: Type.Optional(Type.Integer({ default: 15, description: 'Seconds until the forks end' })),
  count: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 1 })),
})

/** Body of POST /sandboxes/{id}/timeout. */
export const SandboxTimeout = Type.Object({ timeout: Type.Integer({ minimum: 0 }) })

/** Body of POST /sandboxes/{id}/refreshes; the whole body may be missing. */
export const SandboxRefresh = Type.Object({
  duration: Type.Optional(Type.Integer({ minimum: 0, maximum: 3600, default: 15 })),
})

/** What create, connect, resume and fork answer. */
export const Sandbox = Type.Object({
  templateID: Type.String(),
  sandboxID: Type.String(),
  clientID: Type.String({ deprecated: true }),
  envdVersion: Type.String(),
  alias: Type.Optional(Type.String()),
  envdAccessToken: Type.Optional(Type.String()),
  trafficAccessToken: Type.Optional(Type.Union([Type.String(), Type.Null()])),
  domain: Type.Optional(Type.Union([Type.String(), Type.Null()])),
})
export type Sandbox = Static<typeof Sandbox>

/** What fork answers for each of its starts: one of the two. */
export const ForkResult = Type.Object({
  sandbox: Type.Optional(Sandbox),
  error: Type.Optional(ErrorBody),
})
export type ForkResult = Static<typeof ForkResult>

export const SandboxState = Type.Union([Type.Literal('running'), Type.Literal('paused')])
export type SandboxState = Static<typeof SandboxState>

const describedSandbox = {
  templateID: Type.String(),
  sandboxID: Type.String(),
  clientID: Type.String({ deprecated: true }),
  startedAt: Type.String({ format: 'date-time' }),
  endAt: Type.String({ format: 'date-time' }),
  cpuCount: Type.Integer({ minimum: 1 }),
  memoryMB: Type.Integer({ minimum: 128 }),
  diskSizeMB: Type.Integer({ minimum: 0 }),
  state: SandboxState,
  envdVersion: Type.String(),
  alias: Type.Optional(Type.String()),
  metadata: Type.Optional(StringMap),
  volumeMounts: Type.Optional(Type.Array(VolumeMount)),
  envdUnresponsiveAtPause: Type.Optional(Type.Literal(true)),
}

/** An element of the sandbox lists. */
export const ListedSandbox = Type.Object(describedSandbox)
export type ListedSandbox = Static<typeof ListedSandbox>

/** What GET /sandboxes/{id} answers. */
export const SandboxDetail = Type.Object({
  ...describedSandbox,
  envdAccessToken: Type.Optional(Type.String()),
  allowInternetAccess: Type.Optional(Type.Union([Type.Boolean(), Type.Null()])),
  domain: Type.Optional(Type.Union([Type.String(), Type.Null()])),
  network: Type.Optional(SandboxNetworkConfig),
  lifecycle: Type.Optional(
    Type.Object({
      autoResume: Type.Boolean(),
      onTimeout: Type.Union([Type.Literal('kill'), Type.Literal('pause')]),
    }),
  ),
  pauseMode: Type.Optional(Type.Union([Type.Literal('full'), Type.Literal('filesystem')])),
})
export type SandboxDetail = Static<typeof SandboxDetail>

/** Query of GET /v2/sandboxes. `state` is a comma-separated list. */
export const SandboxListQuery = Type.Object({
  metadata: Type.Optional(Type.String()),
  state: Type.Optional(Type.String({ pattern: '^(running|paused)(,(running|paused))*$' })),
  order: Type.Optional(Type.Union([Type.Literal('asc'), Type.Literal('desc')])),
  startedAfter: Type.Optional(Type.String({ format: 'date-time' })),
  template: Type.Optional(Type.String({ minLength: 1 })),
  nextToken: Type.Optional(Type.String()),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 100 })),
})

/** Query of GET /sandboxes. */
export const LegacySandboxListQuery = Type.Object({ metadata: Type.Optional(Type.String()) })

/** Path parameters of one sandbox: its id, or the legacy `id-clientID`. */
export const SandboxParams = Type.Object({ sandboxID: Type.String() })

/** Request header of POST /v2/sandboxes. */
export const IdempotencyKey = Type.String({ minLength: 1, maxLength: 255, pattern: '^[a-z0-9-]+$' })
