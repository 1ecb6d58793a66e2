import { timestampFromMs, timestampMs } from '@bufbuild/protobuf/wkt'
import { Code, ConnectError } from '@connectrpc/connect'
import { ApiError } from '@sandbox/contract/errors'
import { newSandboxId } from '@sandbox/contract/ids'
import type { NewSandboxV2, Sandbox } from '@sandbox/contract/rest/sandboxes'
import type { SandboxRow, Team } from '@sandbox/store/schema'
import type { Store } from '@sandbox/store/store'
import type { Logger } from 'pino'
import type { SandboxTokens } from '../auth/tokens.ts'
import type { SandboxLogs } from '../observing/sandbox-logs.ts'
import type { Features, HostEndpoint } from '../options.ts'
import type { ResolvedTemplate, TemplateResolver } from '../templates/resolver.ts'
import type { AnswerFacts, Answers } from './answers.ts'
import { type Entries, factsOf, runningFromRow, sandboxNotFound, sandboxTransitioning } from './entries.ts'
import type { Idempotency } from './idempotency.ts'
import type { Launcher } from './launching.ts'
import { checkLongestTimeout, checkTimeout, readSettings, type SandboxSettings } from './new-sandbox.ts'
import type { Resumes } from './resuming.ts'
import type { RunningSandbox, RunningSandboxes } from './running.ts'
import { stopOn } from './starting.ts'

export interface LifecycleParts {
  readonly store: Store
  readonly running: RunningSandboxes
  readonly entries: Entries
  readonly launcher: Launcher
  readonly resumes: Resumes
  readonly templates: TemplateResolver
  readonly tokens: SandboxTokens
  readonly answers: Answers
  readonly idempotency: Idempotency
  readonly features: Features
  readonly logs: SandboxLogs
  readonly logger: Logger
}

export interface ConnectOptions {
  readonly timeoutSeconds: number
  /** False boots a paused sandbox instead of restoring its memory. */
  readonly memory: boolean
  readonly autoPause?: boolean | undefined
}

const SET_END_TIMEOUT_MS = 10_000
const MAX_CONNECT_TRIES = 3
/** A host tells its watchers of an end within this after it answers that a sandbox does not run. */
const END_REPORT_MS = 100

/** Creates, connects to, extends and ends sandboxes. */
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
    const { answers, entries, features, idempotency, launcher } = this.#parts
    const { maxHours, maxSandboxes } = entries.limitsOf(team)
    checkTimeout(body.timeout, maxHours)
    const settings = readSettings(body, features)
    const sandboxId = newSandboxId()
    const launch = (template: ResolvedTemplate) =>
      launcher.launch(this.#newRow(team, sandboxId, body, settings, template), {
        limit: maxSandboxes,
        key,
        how: 'created',
        hostId: template.hostId,
        isolation: template.isolation,
      })
    const start = () => this.#launchNewest(team, body.templateID, launch)
    const facts =
      key === undefined
        ? await start()
        : await idempotency.once({ teamId: team.id, key, body, sandboxId }, start)
    return answers.started(facts)
  }

  /**
   * Extends a running sandbox, never shortens it; resumes a paused one. Waits for what happens to it now. A timeout of 0
   * leaves a running one as it is; a paused one is refused, which would be over at once.
   * @throws ApiError 400, 404, 409, 429, 503
   */
  async connect(
    team: Team,
    id: string,
    options: ConnectOptions,
  ): Promise<{ sandbox: Sandbox; resumed: boolean }> {
    const { answers, entries } = this.#parts
    const { maxHours } = entries.limitsOf(team)
    checkLongestTimeout(options.timeoutSeconds, maxHours)
    for (let tries = 1; tries <= MAX_CONNECT_TRIES; tries += 1) {
      const { row, known } = await this.#current(team, id)
      if (known?.phase === 'killing') throw new ApiError('conflict', `Sandbox ${id} is being killed.`)
      if (known && known.phase !== 'running') {
        await known.transition
        continue
      }
      if (known || row.state !== 'paused') {
        const sandbox = known ?? (await entries.adopt(row))
        if (!(await this.#extend(team, sandbox, options.timeoutSeconds))) continue
        return { sandbox: answers.started(factsOf(row)), resumed: false }
      }
      checkTimeout(options.timeoutSeconds, maxHours)
      const resumed = await this.#resume(team, row, options)
      return { sandbox: answers.started(factsOf(resumed)), resumed: true }
    }
    throw sandboxTransitioning(id)
  }

  /** Brings back a paused sandbox; not for running ones. @throws ApiError 400, 404, 409, 429, 503 */
  async resume(team: Team, id: string, options: ConnectOptions): Promise<Sandbox> {
    const { answers, entries, running } = this.#parts
    checkTimeout(options.timeoutSeconds, entries.limitsOf(team).maxHours)
    await running.get(id)?.transition
    const { row, known } = await this.#current(team, id)
    if (known?.phase === 'killing') throw sandboxNotFound(id)
    if (known || row.state !== 'paused') throw new ApiError('conflict', `Sandbox ${id} is already running`)
    return answers.started(factsOf(await this.#resume(team, row, options)))
  }

  /** Sets the end to `timeoutSeconds` from now; `extendOnly` never moves it earlier. @throws ApiError 400, 404, 409 */
  async setTimeout(team: Team, id: string, timeoutSeconds: number, extendOnly: boolean): Promise<void> {
    const { entries, running, store } = this.#parts
    const row = await store.sandboxes.find(team.id, id)
    if (!row || row.state === 'paused') throw sandboxNotFound(id)
    const sandbox = running.get(id) ?? (await entries.adopt(row))
    if (sandbox.phase === 'killing') throw sandboxNotFound(id)
    if (sandbox.phase !== 'running') throw sandboxTransitioning(id)
    const outcome = await this.#moveEnd(team, sandbox, timeoutSeconds, extendOnly)
    if (outcome === 'changing') throw sandboxTransitioning(id)
    if (outcome === 'gone') throw sandboxNotFound(id)
  }

  /**
   * Ends a sandbox in whatever state. Its route is gone before anything else.
   * @throws ApiError 404, 503
   */
  async kill(team: Team, id: string): Promise<void> {
    const { entries, logger, logs, running } = this.#parts
    const known = running.get(id)
    const isKnown = known !== undefined && known.teamId === team.id && known.phase !== 'starting'
    const sandbox = isKnown ? known : await this.#findToKill(team, id)
    if (sandbox.phase === 'killing') throw sandboxNotFound(id)
    const host = entries.hostOf(sandbox)
    await this.#stop(sandbox, host)
    logger.info({ sandboxId: id, teamId: team.id, hostId: host.id }, 'sandbox killed')
    logs.append(id, team.id, 'info', 'Sandbox killed')
  }

  /**
   * A paused sandbox gets an entry while it is killed, so that nothing resumes it meanwhile.
   * @throws ApiError 404, 503 its host is not part of this server
   */
  async #findToKill(team: Team, id: string): Promise<RunningSandbox> {
    const { entries, running, store } = this.#parts
    const row = await store.sandboxes.find(team.id, id)
    if (!row) throw sandboxNotFound(id)
    const known = running.get(id)
    if (known) return known
    entries.hostOf(row)
    const sandbox = runningFromRow(row, row.state === 'paused' ? 'starting' : 'running')
    running.add(sandbox)
    return sandbox
  }

  async #stop(sandbox: RunningSandbox, host: HostEndpoint): Promise<void> {
    const { running, store } = this.#parts
    const { phase, transition } = sandbox
    running.withdraw(sandbox)
    try {
      await stopOn(host, sandbox.id)
      if (transition) {
        // What was under way may have put the sandbox, or its snapshot, there after the first stop.
        await transition
        await stopOn(host, sandbox.id)
      }
    } catch (cause) {
      if (phase === 'starting') running.remove(sandbox.id, sandbox)
      else running.publish(sandbox, sandbox.hostId, sandbox.address)
      throw new ApiError(
        'busy',
        'The host of the sandbox does not answer: the sandbox was not killed, try again.',
        { cause },
      )
    }
    try {
      await store.sandboxes.delete(sandbox.id)
    } finally {
      // A row that could not be deleted can be killed again.
      running.remove(sandbox.id, sandbox)
    }
  }

  /** The build that a tag points at may be replaced, and its snapshot deleted, just before it is started. */
  async #launchNewest(
    team: Team,
    templateId: string,
    launch: (template: ResolvedTemplate) => Promise<AnswerFacts>,
  ): Promise<AnswerFacts> {
    const { templates } = this.#parts
    const template = await templates.resolve(team, templateId)
    try {
      return await launch(template)
    } catch (error) {
      if (!(error instanceof ApiError) || error.kind !== 'noCompatibleNode') throw error
      const newest = await templates.resolve(team, templateId)
      if (newest.buildId === template.buildId) throw error
      return launch(newest)
    }
  }

  /** Row and entry of one moment: what is read may be of before what happens meanwhile, as the end of a pause. */
  async #current(team: Team, id: string): Promise<{ row: SandboxRow; known: RunningSandbox | undefined }> {
    const { running, store } = this.#parts
    for (;;) {
      const before = running.get(id)
      const row = await store.sandboxes.find(team.id, id)
      if (!row) throw sandboxNotFound(id)
      const known = running.get(id)
      if (known === before) return { row, known }
    }
  }

  #resume(
    team: Team,
    row: SandboxRow,
    { timeoutSeconds, memory, autoPause }: ConnectOptions,
  ): Promise<SandboxRow> {
    const { entries, resumes } = this.#parts
    return resumes.resume(row, {
      timeoutMs: timeoutSeconds * 1000,
      limit: entries.limitsOf(team).maxSandboxes,
      memory,
      autoPause,
    })
  }

  #newRow(
    team: Team,
    id: string,
    body: NewSandboxV2 & { timeout: number },
    settings: SandboxSettings,
    template: ResolvedTemplate,
  ): SandboxRow {
    const startedAt = Date.now()
    const timeoutMs = body.timeout * 1000
    return {
      id,
      teamId: team.id,
      templateId: template.templateId,
      buildId: template.buildId,
      snapshotId: template.snapshotId,
      hostId: null,
      alias: template.alias,
      state: 'running',
      pauseMode: null,
      agentUnresponsive: 0,
      startedAt,
      endAt: startedAt + timeoutMs,
      timeoutMs,
      cpuCount: template.cpuCount,
      memoryMib: template.memoryMib,
      diskMib: template.diskMib,
      envdVersion: template.envdVersion,
      metadata: JSON.stringify(body.metadata ?? {}),
      config: JSON.stringify(settings),
      sealedEnv: this.#parts.tokens.sealEnv(id, body.envVars ?? {}),
    }
  }

  /** Answers false when the sandbox just ended or paused by itself and the report of that is still on its way. */
  async #extend(team: Team, sandbox: RunningSandbox, timeoutSeconds: number): Promise<boolean> {
    if ((await this.#moveEnd(team, sandbox, timeoutSeconds, true)) === 'moved') return true
    await new Promise((resolve) => setTimeout(resolve, END_REPORT_MS))
    return false
  }

  /** `gone` when the sandbox does not run on its host, `changing` when something is being done with it there. */
  async #moveEnd(
    team: Team,
    sandbox: RunningSandbox,
    timeoutSeconds: number,
    extendOnly: boolean,
  ): Promise<'moved' | 'gone' | 'changing'> {
    const { entries } = this.#parts
    const latest = sandbox.startedAt + entries.limitsOf(team).maxHours * 3600_000
    const now = Date.now()
    if (latest <= now) throw new ApiError('badRequest', 'Max instance length exceeded')
    const wanted = Math.min(now + timeoutSeconds * 1000, latest)
    if (extendOnly && wanted <= sandbox.endAt) return 'moved'
    try {
      const answer = await entries
        .hostOf(sandbox)
        .client.setEnd(
          { sandboxId: sandbox.id, endAt: timestampFromMs(wanted), extendOnly },
          { timeoutMs: SET_END_TIMEOUT_MS },
        )
      sandbox.endAt = answer.endAt ? timestampMs(answer.endAt) : wanted
    } catch (cause) {
      const { code } = ConnectError.from(cause)
      if (code === Code.NotFound) return 'gone'
      if (code === Code.FailedPrecondition) return 'changing'
      throw new ApiError(
        'busy',
        'The host of the sandbox does not answer: its end was not changed, try again.',
        { cause },
      )
    }
    await this.#recordEnd(sandbox)
    return 'moved'
  }

  /** Of changes at once the one that the host took last stays, in whatever order they are written. */
  async #recordEnd(sandbox: RunningSandbox): Promise<void> {
    let written: number
    do {
      written = sandbox.endAt
      await this.#parts.store.sandboxes.setEnd(sandbox.id, written)
    } while (written !== sandbox.endAt)
  }
}
