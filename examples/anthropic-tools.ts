/**
 * Tool calling with the Anthropic client: the model works in a sandbox for as many turns as it needs.
 *
 *     eval "$(npm run -s env)"                 # where the sandboxes are
 *     export ANTHROPIC_API_KEY=...             # ANTHROPIC_BASE_URL for another provider, MODEL for another model
 *     npm install @anthropic-ai/sdk @e2b/code-interpreter
 *     node examples/anthropic-tools.ts [directory for the charts]
 */
import Anthropic from '@anthropic-ai/sdk'
import { Sandbox } from '@e2b/code-interpreter'
import { MAX_TURNS, SALES, SANDBOX_TIMEOUT_MS, SandboxTools, SYSTEM, TASK, TOOLS } from './sandbox-tools.ts'

/** Asks, runs what the model calls, tells it the outcome, and asks again, until it answers in words. */
async function work(tools: SandboxTools): Promise<string> {
  const client = new Anthropic()
  const messages: Anthropic.MessageParam[] = [{ role: 'user', content: TASK }]
  for (let turn = 0; turn < MAX_TURNS; turn++) {
    const { content, stop_reason } = await client.messages.create({
      model: process.env.MODEL ?? 'claude-sonnet-5-5',
      max_tokens: 4096,
      system: SYSTEM,
      messages,
      tools: TOOLS.map(({ name, description, parameters }) => ({
        name,
        description,
        input_schema: parameters,
      })),
    })
    if (stop_reason !== 'tool_use') {
      return content.map((block) => (block.type === 'text' ? block.text : '')).join('')
    }
    messages.push({ role: 'assistant', content })
    // The model may call several tools at once; all answers go into one message, the next of the user.
    const answers: Anthropic.ToolResultBlockParam[] = []
    for (const block of content) {
      if (block.type !== 'tool_use') continue
      const output = await tools.call(block.name, block.input)
      answers.push({ type: 'tool_result', tool_use_id: block.id, content: output })
    }
    messages.push({ role: 'user', content: answers })
  }
  throw new Error(`The model has not finished after ${MAX_TURNS} turns.`)
}

const directory = process.argv[2] ?? 'results'
const sandbox = await Sandbox.create({ timeoutMs: SANDBOX_TIMEOUT_MS })
try {
  await sandbox.files.write('/home/user/sales.csv', SALES)
  console.log(await work(new SandboxTools(sandbox, directory)))
} finally {
  await sandbox.kill()
}
