import type { Insertable, Kysely, Selectable } from 'kysely'

/**
 * Tables as both databases hold them. Times are milliseconds since 1970, booleans 0 or 1, JSON is text,
 * memory and disk are MiB.
 */

export interface TeamTable {
  id: string
  name: string
  /** Namespace of the team's template names. */
  slug: string
  /** Sandboxes at once; null takes the server's limit. */
  maxSandboxes: number | null
  /** Longest life of a sandbox; null takes the server's limit. */
  maxHours: number | null
  /** May only read and delete. */
  isBlocked: number
  /** May do nothing. */
  isBanned: number
  createdAt: number
}

export interface ApiKeyTable {
  id: string
  teamId: string
  name: string
  /** SHA-256 of the whole key, hex. The key itself is never stored. */
  hash: string
  prefix: string
  /** Length of the key without its prefix. */
  valueLength: number
  maskedValuePrefix: string
  maskedValueSuffix: string
  createdAt: number
  lastUsedAt: number | null
}

export interface TemplateTable {
  id: string
  teamId: string
  isPublic: number
  /** The platform's own: its names are found without a namespace by every team. */
  isDefault: number
  /** Made by a snapshot of a sandbox: not among the team's templates. */
  isSnapshot: number
  /** Engine that its sandboxes run on, `auto` for the machine's own; null takes what the build was made for. */
  isolation: string | null
  createdAt: number
  updatedAt: number
  spawnCount: number
  lastSpawnedAt: number | null
}

export interface TemplateAliasTable {
  teamId: string
  alias: string
  templateId: string
  createdAt: number
}

export type BuildStatus = 'waiting' | 'building' | 'ready' | 'error'

export interface TemplateBuildTable {
  id: string
  templateId: string
  status: BuildStatus
  /** Set once the build is ready. */
  snapshotId: string | null
  envdVersion: string | null
  cpuCount: number
  memoryMib: number
  diskMib: number
  /** Why the build failed, JSON. */
  reason: string | null
  /** The sandbox it is a snapshot of; null for what was built. */
  sourceSandboxId: string | null
  /** The host that holds a snapshot; null for what was built. */
  hostId: string | null
  createdAt: number
  updatedAt: number
  finishedAt: number | null
}

export interface TemplateTagTable {
  templateId: string
  tag: string
  buildId: string
  assignedAt: number
}

export type SandboxRowState = 'running' | 'pausing' | 'paused'

/** Whether a pause kept memory. */
export type PauseMode = 'full' | 'filesystem'

export interface SandboxTable {
  id: string
  teamId: string
  templateId: string
  buildId: string
  /** What the sandbox runs from, or for a paused one what it resumes from. */
  snapshotId: string
  /** Where it runs, or for a paused one where its snapshot lies. */
  hostId: string | null
  alias: string | null
  state: SandboxRowState
  /** Only while paused. */
  pauseMode: PauseMode | null
  /** The agent did not answer when the sandbox was paused. */
  agentUnresponsive: number
  startedAt: number
  /** When it ends, or for a paused one when it was paused. */
  endAt: number
  /** The timeout given at creation, which an automatic resume uses again. */
  timeoutMs: number
  cpuCount: number
  memoryMib: number
  diskMib: number
  envdVersion: string
  /** JSON object of strings. */
  metadata: string
  /** JSON of what a later start needs again: network, life cycle, volumes. */
  config: string
  /** Environment variables, encrypted by the control plane. */
  sealedEnv: string
}

export interface IdempotencyKeyTable {
  teamId: string
  key: string
  /** SHA-256 of the request, hex. */
  requestHash: string
  state: 'in_progress' | 'done'
  /** The run of the server that took the request. */
  owner: string
  sandboxId: string
  /** The answer without its tokens, JSON; null while in progress. */
  answer: string | null
  createdAt: number
}

export interface LooseSnapshotTable {
  snapshotId: string
  hostId: string
  /** The run of the server that makes or deletes it. */
  owner: string
  createdAt: number
}

export interface SandboxLogTable {
  sandboxId: string
  teamId: string
  /** When it was written in the sandbox. */
  at: number
  /** When it was inserted, microseconds since 1970, made to ascend: the order of lines of the same millisecond. */
  seq: number
  /** 0 debug, 1 info, 2 warn, 3 error. */
  level: number
  message: string
  /** JSON object of strings. */
  fields: string
}

export interface SandboxMetricTable {
  sandboxId: string
  at: number
  /** 1 for the samples that are kept longer, 0 for those between them. */
  isCoarse: number
  cpuCount: number
  /** 0 to 100, of all its CPUs together. */
  cpuUsedPct: number
  memoryUsedBytes: number
  memoryTotalBytes: number
  memoryCacheBytes: number
  diskUsedBytes: number
  diskTotalBytes: number
}

export interface TeamMetricTable {
  teamId: string
  at: number
  concurrentSandboxes: number
  /** Starts a second. */
  startRate: number
}

export interface ServerSecretTable {
  name: string
  value: string
}

export interface Database {
  teams: TeamTable
  apiKeys: ApiKeyTable
  templates: TemplateTable
  templateAliases: TemplateAliasTable
  templateBuilds: TemplateBuildTable
  templateTags: TemplateTagTable
  sandboxes: SandboxTable
  idempotencyKeys: IdempotencyKeyTable
  looseSnapshots: LooseSnapshotTable
  sandboxLogs: SandboxLogTable
  sandboxMetrics: SandboxMetricTable
  teamMetrics: TeamMetricTable
  serverSecrets: ServerSecretTable
}

export type StoreDb = Kysely<Database>

export type Team = Selectable<TeamTable>
export type ApiKey = Selectable<ApiKeyTable>
export type Template = Selectable<TemplateTable>
export type TemplateBuild = Selectable<TemplateBuildTable>
export type TemplateTag = Selectable<TemplateTagTable>
export type SandboxRow = Selectable<SandboxTable>
export type NewSandboxRow = Insertable<SandboxTable>
export type IdempotencyKey = Selectable<IdempotencyKeyTable>
export type LooseSnapshot = Selectable<LooseSnapshotTable>
export type SandboxLogRow = Selectable<SandboxLogTable>
export type SandboxMetricRow = Selectable<SandboxMetricTable>
export type TeamMetricRow = Selectable<TeamMetricTable>
