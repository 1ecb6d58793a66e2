import { publicNetworkConfig } from '@sandbox/contract/rest/network-rules'
import type { ListedSandbox, Sandbox, SandboxDetail } from '@sandbox/contract/rest/sandboxes'
import type { ListedRow } from '@sandbox/store/sandboxes'
import type { SandboxRow } from '@sandbox/store/schema'
import type { SandboxTokens } from '../auth/tokens.ts'
import type { SandboxSettings } from './new-sandbox.ts'

/** Deprecated, but clients require the field. */
const CLIENT_ID = 'selfhosted'

/** What an answer about a started sandbox is made of; stored with its idempotency key, so without tokens. */
export interface AnswerFacts {
  readonly templateId: string
  readonly sandboxId: string
  readonly envdVersion: string
  readonly alias: string | null
  readonly isPrivate: boolean
}

export const settingsOf = (row: Pick<SandboxRow, 'config'>): SandboxSettings =>
  JSON.parse(row.config) as SandboxSettings

/** Turns rows into the bodies of the REST API. */
export class Answers {
  readonly #tokens: SandboxTokens
  readonly #domain: string | null

  constructor(tokens: SandboxTokens, domain: string | null) {
    this.#tokens = tokens
    this.#domain = domain
  }

  started(facts: AnswerFacts): Sandbox {
    return {
      templateID: facts.templateId,
      sandboxID: facts.sandboxId,
      clientID: CLIENT_ID,
      envdVersion: facts.envdVersion,
      envdAccessToken: this.#tokens.envdToken(facts.sandboxId),
      trafficAccessToken: facts.isPrivate ? this.#tokens.trafficToken(facts.sandboxId) : null,
      domain: this.#domain,
      ...(facts.alias === null ? {} : { alias: facts.alias }),
    }
  }

  listed(row: ListedRow): ListedSandbox {
    const { volumeMounts } = settingsOf(row)
    return {
      templateID: row.templateId,
      sandboxID: row.id,
      clientID: CLIENT_ID,
      startedAt: new Date(row.startedAt).toISOString(),
      endAt: new Date(row.endAt).toISOString(),
      cpuCount: row.cpuCount,
      memoryMB: row.memoryMib,
      diskSizeMB: row.diskMib,
      state: row.state === 'running' ? 'running' : 'paused',
      envdVersion: row.envdVersion,
      metadata: JSON.parse(row.metadata) as Record<string, string>,
      ...(row.alias === null ? {} : { alias: row.alias }),
      ...(row.agentUnresponsive ? { envdUnresponsiveAtPause: true } : {}),
      ...(volumeMounts ? { volumeMounts: [...volumeMounts] } : {}),
    }
  }

  detailed(row: SandboxRow): SandboxDetail {
    const settings = settingsOf(row)
    return {
      ...this.listed(row),
      envdAccessToken: this.#tokens.envdToken(row.id),
      allowInternetAccess: settings.allowInternetAccess,
      domain: row.state === 'running' ? this.#domain : null,
      lifecycle: { autoResume: settings.autoResume, onTimeout: settings.autoPause ? 'pause' : 'kill' },
      ...(row.state === 'paused' && row.pauseMode ? { pauseMode: row.pauseMode } : {}),
      ...(settings.network ? { network: publicNetworkConfig(settings.network) } : {}),
    }
  }
}
