import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import type Anthropic from '@anthropic-ai/sdk'
import type OpenAI from 'openai'

/** What a model says in one turn: words, or calls of the tools it was offered. */
interface Turn {
  text?: string
  calls?: readonly { name: string; input: Record<string, unknown> }[]
}

/**
 * A scripted model.
 * @param turn how often it has spoken before in this conversation
 * @param results what the calls of its last turn came to, in their order
 */
export type Script = (turn: number, results: readonly string[]) => Turn

export interface ModelServer {
  /** The environment that sends the OpenAI and Anthropic clients here. */
  readonly environment: Record<string, string>
  /** The user's first message of the last conversation. */
  prompt(): string
  /** Every result of a tool that the model was told, in order. */
  results(): readonly string[]
  close(): Promise<void>
}

/** A conversation without its provider's spelling. */
interface Conversation {
  prompt: string
  /** Names of the offered tools. */
  tools: readonly string[]
  turns: number
  /** Results of the last turn's calls. */
  results: readonly string[]
}

/** One provider's wire format. `read` throws an InvalidRequest for what the provider refuses. */
interface Dialect {
  path: string
  isAuthorized(request: IncomingMessage): boolean
  read(body: string): Conversation
  /** The answer's body. */
  write(turn: Turn, id: string): unknown
  refuse(type: string, message: string): unknown
}

class InvalidRequest extends Error {}

function demand(isValid: unknown, message: string): asserts isValid {
  if (!isValid) throw new InvalidRequest(message)
}

const KEY = 'a-key-of-the-tests'
const MODEL = 'scripted'
const callId = (id: string, index: number): string => `call_${id}_${index}`

/** A provider refuses a conversation in which a call has no answer, or an answer no call. */
function demandAnswers(called: readonly string[], answered: readonly string[]): void {
  const isComplete = called.length === answered.length && called.every((id) => answered.includes(id))
  demand(isComplete, `calls [${called}] were answered by [${answered}]`)
}

const openai: Dialect = {
  path: '/v1/chat/completions',
  isAuthorized: (request) => request.headers.authorization === `Bearer ${KEY}`,
  read: (body) => {
    const { model, messages, tools = [] } = JSON.parse(body) as OpenAI.ChatCompletionCreateParams
    demand(model === MODEL, `there is no model '${model}'`)
    const spoken = messages.filter((message) => message.role === 'assistant')
    const last = messages.findLastIndex((message) => message.role === 'assistant')
    const answers = messages.slice(last + 1).filter((message) => message.role === 'tool')
    if (last >= 0) {
      const called = (spoken.at(-1)?.tool_calls ?? []).map(({ id }) => id)
      demandAnswers(
        called,
        answers.map((message) => message.tool_call_id),
      )
    }
    return {
      prompt: String(messages.find((message) => message.role === 'user')?.content),
      tools: tools.flatMap((tool) => (tool.type === 'function' ? [tool.function.name] : [])),
      turns: spoken.length,
      results: answers.map((message) => String(message.content)),
    }
  },
  write: ({ text = null, calls = [] }, id): OpenAI.ChatCompletion => ({
    id: `chatcmpl-${id}`,
    object: 'chat.completion',
    created: Math.floor(Date.now() / 1000),
    model: MODEL,
    choices: [
      {
        index: 0,
        finish_reason: calls.length > 0 ? 'tool_calls' : 'stop',
        logprobs: null,
        message: {
          role: 'assistant',
          content: text,
          refusal: null,
          ...(calls.length > 0 && {
            tool_calls: calls.map(({ name, input }, index) => ({
              id: callId(id, index),
              type: 'function' as const,
              function: { name, arguments: JSON.stringify(input) },
            })),
          }),
        },
      },
    ],
    usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 },
  }),
  refuse: (type, message) => ({ error: { type, message, param: null, code: null } }),
}

const anthropic: Dialect = {
  path: '/v1/messages',
  // The provider takes the key either way; the clients changed theirs.
  isAuthorized: ({ headers }) =>
    [headers['x-api-key'], headers.authorization?.replace(/^Bearer /, '')].includes(KEY) &&
    headers['anthropic-version'] !== undefined,
  read: (body) => {
    const { model, max_tokens, messages, tools = [] } = JSON.parse(body) as Anthropic.MessageCreateParams
    demand(model === MODEL, `there is no model '${model}'`)
    demand(Number.isInteger(max_tokens), 'max_tokens: Field required')
    const isAlternating = messages.every(({ role }, index) => role === (index % 2 ? 'assistant' : 'user'))
    demand(isAlternating && messages.length % 2 === 1, 'roles must alternate and end with the user')
    const blocks = (index: number): Anthropic.ContentBlockParam[] => {
      const content = messages.at(index)?.content ?? []
      return typeof content === 'string' ? [{ type: 'text', text: content }] : content
    }
    const answers = blocks(-1).filter((block) => block.type === 'tool_result')
    const called = messages.length > 1 ? blocks(-2).filter((block) => block.type === 'tool_use') : []
    demandAnswers(
      called.map(({ id }) => id),
      answers.map((block) => block.tool_use_id),
    )
    const [prompt] = blocks(0)
    return {
      prompt: prompt?.type === 'text' ? prompt.text : '',
      tools: tools.flatMap((tool) => ('input_schema' in tool ? [tool.name] : [])),
      turns: (messages.length - 1) / 2,
      results: answers.map((block) => String(block.content)),
    }
  },
  write: ({ text, calls = [] }, id) => ({
    id: `msg_${id}`,
    type: 'message',
    role: 'assistant',
    model: MODEL,
    content: [
      ...(text === undefined ? [] : [{ type: 'text', text }]),
      ...calls.map(({ name, input }, index) => ({ type: 'tool_use', id: callId(id, index), name, input })),
    ],
    stop_reason: calls.length > 0 ? 'tool_use' : 'end_turn',
    stop_sequence: null,
    usage: { input_tokens: 1, output_tokens: 1 },
  }),
  refuse: (type, message) => ({ type: 'error', error: { type, message } }),
}

/**
 * Stands in for both providers: speaks their wire formats (without streaming) and follows a script. It refuses what
 * they refuse, so that an example which works here works there.
 */
export async function startModelServer(script: Script): Promise<ModelServer> {
  let prompt = ''
  let spoken = 0
  const told: string[] = []

  const answer = async (dialect: Dialect, request: IncomingMessage): Promise<[number, unknown]> => {
    if (!dialect.isAuthorized(request)) return [401, dialect.refuse('authentication_error', 'invalid key')]
    try {
      const conversation = dialect.read(await text(request))
      prompt = conversation.prompt
      told.push(...conversation.results)
      const turn = script(conversation.turns, conversation.results)
      for (const { name } of turn.calls ?? []) {
        demand(conversation.tools.includes(name), `the tool '${name}' was not offered`)
      }
      spoken += 1
      return [200, dialect.write(turn, String(spoken))]
    } catch (error) {
      return [400, dialect.refuse('invalid_request_error', String(error))]
    }
  }
  const server = createServer(async (request, response) => {
    const dialect = [openai, anthropic].find(({ path }) => path === request.url)
    const [status, body] = dialect ? await answer(dialect, request) : [404, {}]
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    environment: {
      OPENAI_BASE_URL: `http://127.0.0.1:${port}/v1`,
      OPENAI_API_KEY: KEY,
      ANTHROPIC_BASE_URL: `http://127.0.0.1:${port}`,
      ANTHROPIC_API_KEY: KEY,
      MODEL,
    },
    prompt: () => prompt,
    results: () => told,
    close: async () => {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
