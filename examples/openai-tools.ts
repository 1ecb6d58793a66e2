/**
 * Tool calling with the OpenAI client: the model works in a sandbox for as many turns as it needs.
 *
 *     eval "$(npm run -s env)"                 # where the sandboxes are
 *     export OPENAI_API_KEY=...                # OPENAI_BASE_URL for another provider, MODEL for another model
 *     npm install openai @e2b/code-interpreter
 *     node examples/openai-tools.ts [directory for the charts]
 */
import { Sandbox } from '@e2b/code-interpreter'
import OpenAI from 'openai'
import { MAX_TURNS, SALES, SANDBOX_TIMEOUT_MS, SandboxTools, SYSTEM, TASK, TOOLS } from './sandbox-tools.ts'

/** Asks, runs what the model calls, tells it the outcome, and asks again, until it answers in words. */
async function work(tools: SandboxTools): Promise<string> {
  const client = new OpenAI()
  const messages: OpenAI.ChatCompletionMessageParam[] = [
    { role: 'system', content: SYSTEM },
    { role: 'user', content: TASK },
  ]
  for (let turn = 0; turn < MAX_TURNS; turn++) {
    const { choices } = await client.chat.completions.create({
      model: process.env.MODEL ?? 'gpt-5.5',
      messages,
      tools: TOOLS.map((tool) => ({ type: 'function', function: tool })),
    })
    const message = choices[0]!.message
    if (!message.tool_calls?.length) return message.content ?? ''
    messages.push(message)
    // The model may call several tools at once; every call needs its answer before the next turn.
    for (const call of message.tool_calls) {
      messages.push({ role: 'tool', tool_call_id: call.id, content: await answer(tools, call) })
    }
  }
  throw new Error(`The model has not finished after ${MAX_TURNS} turns.`)
}

/** The arguments are JSON that the model wrote, so they may be broken. */
async function answer(tools: SandboxTools, call: OpenAI.ChatCompletionMessageToolCall): Promise<string> {
  if (call.type !== 'function') return 'Only functions can be called.'
  let input: unknown
  try {
    input = JSON.parse(call.function.arguments)
  } catch (error) {
    return `The arguments are not JSON: ${error}`
  }
  return tools.call(call.function.name, input)
}

const directory = process.argv[2] ?? 'results'
const sandbox = await Sandbox.create({ timeoutMs: SANDBOX_TIMEOUT_MS })
try {
  await sandbox.files.write('/home/user/sales.csv', SALES)
  console.log(await work(new SandboxTools(sandbox, directory)))
} finally {
  await sandbox.kill()
}
