import { type Static, Type } from 'typebox'

/** Snapshot bodies of the REST API. */

/** Body of POST /sandboxes/{id}/snapshots. */
export const NewSnapshot = Type.Object({
  name: Type.Optional(
    Type.String({
      minLength: 1,
      description: '[namespace/]name[:tag]; without a name it is found by its id',
    }),
  ),
  memory: Type.Optional(Type.Boolean({ default: true, description: 'False keeps the files only' })),
})
export type NewSnapshot = Static<typeof NewSnapshot>

export const SnapshotInfo = Type.Object({
  snapshotID: Type.String({ description: 'namespace/name:tag, or id:tag when it has no name' }),
  names: Type.Array(Type.String(), { description: 'namespace/name, without a tag' }),
})
export type SnapshotInfo = Static<typeof SnapshotInfo>

/** Query of GET /snapshots. */
export const SnapshotListQuery = Type.Object({
  sandboxID: Type.Optional(Type.String({ minLength: 1 })),
  name: Type.Optional(Type.String({ minLength: 1 })),
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 100, default: 100 })),
  nextToken: Type.Optional(Type.String()),
})
