import { type Static, Type } from 'typebox'

/** Metrics of sandboxes and teams. Memory and disk are bytes, times whole seconds since 1970. */

export const SandboxMetric = Type.Object({
  timestamp: Type.String({ format: 'date-time' }),
  timestampUnix: Type.Integer(),
  cpuCount: Type.Integer(),
  cpuUsedPct: Type.Number(),
  memUsed: Type.Integer(),
  memTotal: Type.Integer(),
  memCache: Type.Integer(),
  diskUsed: Type.Integer(),
  diskTotal: Type.Integer(),
})
export type SandboxMetric = Static<typeof SandboxMetric>

/** What as milliseconds still fits the integers of a database. */
const Seconds = Type.Integer({ minimum: 0, maximum: 2 ** 52 })

/** Query of metrics over time; both ends inclusive. */
export const MetricRange = Type.Object({
  start: Type.Optional(Seconds),
  end: Type.Optional(Seconds),
})
export type MetricRange = Static<typeof MetricRange>

/** Query of GET /sandboxes/metrics: a comma-separated list of at most 100 different ids. */
export const LatestMetricsQuery = Type.Object({ sandbox_ids: Type.String({ minLength: 1 }) })

export const LatestMetrics = Type.Object({ sandboxes: Type.Record(Type.String(), SandboxMetric) })

export const TeamMetric = Type.Object({
  timestamp: Type.String({ format: 'date-time' }),
  timestampUnix: Type.Integer(),
  concurrentSandboxes: Type.Integer(),
  sandboxStartRate: Type.Number({ description: 'Starts a second' }),
})
export type TeamMetric = Static<typeof TeamMetric>

export const MaxTeamMetricQuery = Type.Object({
  ...MetricRange.properties,
  metric: Type.Union([Type.Literal('concurrent_sandboxes'), Type.Literal('sandbox_start_rate')]),
})

export const MaxTeamMetric = Type.Object({
  timestamp: Type.String({ format: 'date-time' }),
  timestampUnix: Type.Integer(),
  value: Type.Number(),
})

export const TeamParams = Type.Object({ teamID: Type.String() })
