/**
 * A web server that runs in the sandbox and is reached from here by its URL.
 *
 *     eval "$(npm run -s env)"
 *     node examples/background-server.ts
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Sandbox } from '@e2b/code-interpreter'

const PORT = 8000

/** A server needs a moment to listen; until then the sandbox's proxy answers 502. */
async function fetchWhenUp(url: string, withinMs = 15_000): Promise<string> {
  const deadline = Date.now() + withinMs
  for (;;) {
    const response = await fetch(url)
    const body = await response.text()
    if (response.ok) return body
    if (response.status !== 502 || Date.now() > deadline) throw new Error(`${response.status}: ${body}`)
    await sleep(100)
  }
}

const sandbox = await Sandbox.create()
try {
  await sandbox.files.write('site/index.html', '<h1>Served from a sandbox</h1>')
  const command = `python -m http.server ${PORT} --directory site`
  const server = await sandbox.commands.run(command, { background: true })

  const url = `https://${sandbox.getHost(PORT)}`
  console.log(url)
  console.log(await fetchWhenUp(url))
  await server.kill()
} finally {
  await sandbox.kill()
}
