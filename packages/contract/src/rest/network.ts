import { type Static, Type } from 'typebox'

/** Shapes of a sandbox's network settings. `network-rules.ts` checks what a schema cannot say. */

const ProxyTls = Type.Object({
  enabled: Type.Boolean(),
  serverName: Type.Optional(Type.String({ maxLength: 253 })),
  caCert: Type.Optional(Type.String({ maxLength: 8192, description: 'PEM' })),
})

export const EgressProxy = Type.Object({
  address: Type.String({ minLength: 1, description: 'host:port of a SOCKS5 proxy' }),
  username: Type.Optional(Type.String()),
  password: Type.Optional(Type.String()),
  tls: Type.Optional(Type.Union([ProxyTls, Type.Null()])),
})
export type EgressProxy = Static<typeof EgressProxy>

const Rule = Type.Object({
  transform: Type.Optional(
    Type.Object({ headers: Type.Optional(Type.Record(Type.String(), Type.String())) }),
  ),
})

const egressFields = {
  allowOut: Type.Optional(Type.Array(Type.String())),
  denyOut: Type.Optional(Type.Array(Type.String())),
  egressProxy: Type.Optional(Type.Union([EgressProxy, Type.Null()])),
  dnsServers: Type.Optional(Type.Array(Type.String(), { maxItems: 10 })),
  rules: Type.Optional(Type.Record(Type.String(), Type.Array(Rule))),
}

/** `network` of a new sandbox. */
export const SandboxNetworkConfig = Type.Object({
  ...egressFields,
  allowPublicTraffic: Type.Optional(Type.Union([Type.Boolean(), Type.Null()])),
  maskRequestHost: Type.Optional(Type.String()),
  httpsPorts: Type.Optional(Type.Array(Type.Integer({ minimum: 1, maximum: 65535 }), { maxItems: 1000 })),
})
export type SandboxNetworkConfig = Static<typeof SandboxNetworkConfig>

/** Body of PUT /sandboxes/{id}/network: replaces the whole egress configuration. */
export const SandboxNetworkUpdate = Type.Object({
  ...egressFields,
  allow_internet_access: Type.Optional(Type.Boolean()),
})
export type SandboxNetworkUpdate = Static<typeof SandboxNetworkUpdate>
