import { Type } from 'typebox'

/** Bodies of the operator's routes. */

export const KillResult = Type.Object({ killedCount: Type.Integer(), failedCount: Type.Integer() })

/** Sandboxes that run now, by team. */
export const RunningCounts = Type.Record(Type.String(), Type.Integer())

export const AdminApiKeyParams = Type.Object({ teamID: Type.String(), apiKeyID: Type.String() })
