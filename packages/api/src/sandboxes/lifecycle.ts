import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import { Code, ConnectError } from '@connectrpc/connect'
import { ApiError } from '@sandbox/contract/errors'
import { newSandboxId } from '@sandbox/contract/ids'
import type { NewSandboxV2, Sandbox } from '@sandbox/contract/rest/sandboxes'
import type { SandboxRow, Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { SandboxTokens } from '../auth/tokens.ts'
import type { Features, HostEndpoint, TeamLimits } from '../options.ts'
import type { ResolvedTemplate, TemplateResolver } from '../templates/resolver.ts'
import { type AnswerFacts, type Answers, settingsOf } from './answers.ts'
import type { Hosts } from './hosts.ts'
import type { Idempotency } from './idempotency.ts'
import { checkTimeout, ingressOf, readSettings, type SandboxSettings } from './new-sandbox.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'
import { type Placed, type Starter, type StartOrder, stopOn } from './starting.ts'

export interface LifecycleParts {
  readonly store: Store
  readonly hosts: Hosts
  readonly starter: Starter
  readonly running: RunningSandboxes
  readonly templates: TemplateResolver
  readonly tokens: SandboxTokens
  readonly answers: Answers
  readonly idempotency: Idempotency
  readonly limits: TeamLimits
  readonly features: Features
  readonly logger: Logger
}

const SET_END_TIMEOUT_MS = 10_000

export const sandboxNotFound = (id: string): ApiError =>
  new ApiError('notFound', `Sandbox "${id}" doesn't exist or you don't have access to it`)

/** Creates, extends and ends sandboxes. The only writer of their rows besides the reports of the hosts. */
export class Lifecycle {
  readonly #parts: LifecycleParts

  constructor(parts: LifecycleParts) {
    this.#parts = parts
  }

  /**
   * @throws ApiError 400 invalid, 403 template or feature, 404 template, 429 team limit, 503 capacity,
   * 409 and 422 of the idempotency key; nothing runs then
   */
  async create(team: Team, body: NewSandboxV2 & { timeout: number }, key?: string): Promise<Sandbox> {
    const { answers, features, idempotency, templates } = this.#parts
    checkTimeout(body.timeout, this.#limitsOf(team).maxHours)
    const settings = readSettings(body, features)
    const sandboxId = newSandboxId()
    const start = async () => {
      const template = await templates.resolve(team, body.templateID)
      return this.#launch(team, { sandboxId, body, settings, template, key })
    }
    const facts =
      key === undefined
        ? await start()
        : await idempotency.once({ teamId: team.id, key, body, sandboxId }, start)
    return answers.started(facts)
  }

  /** Extends a running sandbox, never shortens it. @throws ApiError 400, 404, 409 */
  async connect(
    team: Team,
    id: string,
    timeoutSeconds: number,
  ): Promise<{ sandbox: Sandbox; resumed: boolean }> {
    const { answers, store } = this.#parts
    checkTimeout(timeoutSeconds, this.#limitsOf(team).maxHours)
    const row = await store.sandboxes.find(team.id, id)
    if (!row) throw sandboxNotFound(id)
    if (row.state !== 'running')
      throw new ApiError('conflict', `Sandbox ${id} is paused: resuming is not available yet.`)
    const sandbox = this.#running(row)
    if (sandbox.phase === 'killing') throw new ApiError('conflict', `Sandbox ${id} is being killed.`)
    await this.#moveEnd(team, sandbox, timeoutSeconds, true)
    return { sandbox: answers.started(factsOf(row)), resumed: false }
  }

  /** Sets the end to `timeoutSeconds` from now; `extendOnly` never moves it earlier. @throws ApiError 400, 404 */
  async setTimeout(team: Team, id: string, timeoutSeconds: number, extendOnly: boolean): Promise<void> {
    const row = await this.#parts.store.sandboxes.find(team.id, id)
    if (row?.state !== 'running') throw sandboxNotFound(id)
    const sandbox = this.#running(row)
    if (sandbox.phase === 'killing') throw sandboxNotFound(id)
    await this.#moveEnd(team, sandbox, timeoutSeconds, extendOnly)
  }

  /** Ends a sandbox, running or paused. Its route is gone before anything else. @throws ApiError 404, 503 */
  async kill(team: Team, id: string): Promise<void> {
    const { running, store } = this.#parts
    const known = running.get(id)
    if (known && (known.teamId !== team.id || known.phase !== 'running')) throw sandboxNotFound(id)
    const sandbox = known ?? (await this.#findRunning(team, id))
    if (sandbox) await this.#stop(sandbox)
    else if (!(await store.sandboxes.delete(id))) throw sandboxNotFound(id)
    this.#parts.logger.info({ sandboxId: id, teamId: team.id, hostId: sandbox?.hostId }, 'sandbox killed')
  }

  async #findRunning(team: Team, id: string): Promise<RunningSandbox | undefined> {
    const row = await this.#parts.store.sandboxes.find(team.id, id)
    if (!row) throw sandboxNotFound(id)
    return row.state === 'paused' ? undefined : this.#running(row)
  }

  async #stop(sandbox: RunningSandbox): Promise<void> {
    const { running, store } = this.#parts
    const host = this.#hostOf(sandbox)
    running.withdraw(sandbox)
    try {
      await stopOn(host, sandbox.id)
    } catch (cause) {
      running.publish(sandbox, sandbox.hostId, sandbox.address)
      throw new ApiError(
        'busy',
        'The host of the sandbox does not answer: the sandbox was not killed, try again.',
        { cause },
      )
    }
    await store.sandboxes.delete(sandbox.id)
    running.remove(sandbox.id)
  }

  async #launch(team: Team, launch: Launch): Promise<AnswerFacts> {
    const { running, starter, logger, store } = this.#parts
    const { sandboxId, body, settings, template } = launch
    const begun = performance.now()
    const startedAt = Date.now()
    const endAt = startedAt + body.timeout * 1000
    const sandbox: RunningSandbox = {
      id: sandboxId,
      teamId: team.id,
      hostId: '',
      address: '',
      phase: 'starting',
      startedAt,
      endAt,
      ingress: ingressOf(settings),
    }
    running.reserve(sandbox, this.#limitsOf(team).maxSandboxes)
    try {
      const placed = await starter.start(this.#startOrder(launch, sandbox))
      const facts = await this.#record(team, launch, sandbox, placed)
      const startMs = Math.round((performance.now() - begun) * 100) / 100
      const { hostId, fromPool } = placed
      logger.info(
        { sandboxId, teamId: team.id, templateId: template.templateId, hostId, fromPool, startMs },
        'sandbox created',
      )
      store.templates
        .countSpawn(template.templateId, startedAt)
        .catch((error) => logger.warn({ err: error }, 'spawn of a template not counted'))
      return facts
    } catch (error) {
      running.remove(sandboxId)
      throw error
    }
  }

  #startOrder({ body, settings, template }: Launch, { id, endAt, ingress }: RunningSandbox): StartOrder {
    const { tokens } = this.#parts
    const { cpuCount, memoryMib, diskMib } = template
    return {
      sandboxId: id,
      snapshotId: template.snapshotId,
      endAt,
      pauseAtEnd: settings.autoPause,
      memoryMib,
      config: {
        resources: { cpuCount, memoryMib, diskMib },
        envVars: body.envVars ?? {},
        envdAccessToken: tokens.envdToken(id),
        ...(ingress.isPrivate ? { trafficAccessToken: tokens.trafficToken(id) } : {}),
        allowInternetAccess: settings.allowInternetAccess ?? true,
        networkJson: settings.network ? JSON.stringify(settings.network) : '',
        metadata: body.metadata ?? {},
        templateId: template.templateId,
      },
    }
  }

  /** Writes the row, then makes the sandbox reachable. A sandbox that cannot be recorded is stopped again. */
  async #record(team: Team, launch: Launch, sandbox: RunningSandbox, placed: Placed): Promise<AnswerFacts> {
    const { running, store } = this.#parts
    sandbox.hostId = placed.hostId
    const row = this.#rowOf(team, launch, sandbox)
    const facts = factsOf(row)
    try {
      await store.sandboxes.insert(
        row,
        launch.key === undefined ? undefined : { key: launch.key, answer: JSON.stringify(facts) },
      )
    } catch (error) {
      await this.#unrecord(sandbox)
      throw error
    }
    if (sandbox.ended) {
      await store.sandboxes.delete(sandbox.id)
      throw new ApiError(
        'createFailed',
        'The sandbox ended right after its start: nothing of it is left, try again.',
      )
    }
    running.publish(sandbox, placed.hostId, placed.address)
    return facts
  }

  /** After a failed write: the sandbox goes, and so does a row whose write failed only in its answer. */
  async #unrecord(sandbox: RunningSandbox): Promise<void> {
    const { store, logger } = this.#parts
    const undone = await Promise.allSettled([
      stopOn(this.#hostOf(sandbox), sandbox.id),
      store.sandboxes.delete(sandbox.id),
    ])
    for (const result of undone) {
      if (result.status === 'rejected') {
        logger.error({ err: result.reason, sandboxId: sandbox.id }, 'unrecorded sandbox not removed yet')
      }
    }
  }

  #rowOf(team: Team, { body, settings, template }: Launch, sandbox: RunningSandbox): SandboxRow {
    return {
      id: sandbox.id,
      teamId: team.id,
      templateId: template.templateId,
      buildId: template.buildId,
      snapshotId: template.snapshotId,
      hostId: sandbox.hostId,
      alias: template.alias,
      state: 'running',
      startedAt: sandbox.startedAt,
      endAt: sandbox.endAt,
      timeoutMs: body.timeout * 1000,
      cpuCount: template.cpuCount,
      memoryMib: template.memoryMib,
      diskMib: template.diskMib,
      envdVersion: template.envdVersion,
      metadata: JSON.stringify(body.metadata ?? {}),
      config: JSON.stringify(settings),
      sealedEnv: this.#parts.tokens.sealEnv(sandbox.id, body.envVars ?? {}),
    }
  }

  async #moveEnd(
    team: Team,
    sandbox: RunningSandbox,
    timeoutSeconds: number,
    extendOnly: boolean,
  ): Promise<void> {
    const { store } = this.#parts
    const latest = sandbox.startedAt + this.#limitsOf(team).maxHours * 3600_000
    const now = Date.now()
    if (latest <= now) throw new ApiError('badRequest', 'Max instance length exceeded')
    const wanted = Math.min(now + timeoutSeconds * 1000, latest)
    if (extendOnly && wanted <= sandbox.endAt) return
    try {
      const answer = await this.#hostOf(sandbox).client.setEnd(
        { sandboxId: sandbox.id, endAt: timestampFromMs(wanted), extendOnly },
        { timeoutMs: SET_END_TIMEOUT_MS },
      )
      sandbox.endAt = answer.endAt ? timestampMs(answer.endAt) : wanted
    } catch (cause) {
      if (ConnectError.from(cause).code === Code.NotFound) throw sandboxNotFound(sandbox.id)
      throw new ApiError(
        'busy',
        'The host of the sandbox does not answer: its end was not changed, try again.',
        { cause },
      )
    }
    await store.sandboxes.setEnd(sandbox.id, sandbox.endAt)
  }

  /** The entry of a running row; made here when another process started the sandbox. */
  #running(row: SandboxRow): RunningSandbox {
    const { running } = this.#parts
    const known = running.get(row.id)
    if (known) return known
    const sandbox = runningFromRow(row)
    running.add(sandbox)
    return sandbox
  }

  #hostOf(sandbox: RunningSandbox): HostEndpoint {
    const host = this.#parts.hosts.get(sandbox.hostId)
    if (!host)
      throw new ApiError('busy', `Host ${sandbox.hostId} of the sandbox is not part of this server now.`)
    return host
  }

  #limitsOf(team: Team): TeamLimits {
    const { limits } = this.#parts
    return {
      maxSandboxes: team.maxSandboxes ?? limits.maxSandboxes,
      maxHours: team.maxHours ?? limits.maxHours,
    }
  }
}

interface Launch {
  readonly sandboxId: string
  readonly body: NewSandboxV2 & { timeout: number }
  readonly settings: SandboxSettings
  readonly template: ResolvedTemplate
  readonly key: string | undefined
}

/** An entry for a row whose sandbox was started earlier; its address comes from its host. */
export function runningFromRow(row: SandboxRow): RunningSandbox {
  return {
    id: row.id,
    teamId: row.teamId,
    hostId: row.hostId ?? '',
    address: '',
    phase: 'running',
    startedAt: row.startedAt,
    endAt: row.endAt,
    ingress: ingressOf(settingsOf(row)),
  }
}

function factsOf(row: SandboxRow): AnswerFacts {
  return {
    templateId: row.templateId,
    sandboxId: row.id,
    envdVersion: row.envdVersion,
    alias: row.alias,
    isPrivate: ingressOf(settingsOf(row)).isPrivate,
  }
}
