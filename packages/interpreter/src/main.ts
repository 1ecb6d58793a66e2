/** Starts the code interpreter inside a sandbox. All options have the values of a sandbox as their default. */
import { parseArgs } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { ENVD_PORT, INTERPRETER_PORT } from '@sandbox/contract/ports'
import { InterpreterService } from './interpreter-service.ts'

const { values } = parseArgs({
  options: {
    host: { type: 'string', default: '0.0.0.0' },
    port: { type: 'string', default: String(INTERPRETER_PORT) },
    'jupyter-socket': { type: 'string', default: '/opt/e2b/run/jupyter.sock' },
    'connection-dir': { type: 'string', default: '/home/user/.local/share/jupyter/runtime' },
    'agent-port': { type: 'string', default: String(ENVD_PORT) },
    'generation-file': { type: 'string', default: '/run/e2b/.generation' },
    cwd: { type: 'string', default: '/home/user' },
    preload: { type: 'string', default: 'python,javascript' },
  },
})

// What was compiled before the capture stays compiled in every clone.
setFlagsFromString('--no-flush-bytecode')

const service = new InterpreterService({
  host: values.host,
  port: Number(values.port),
  jupyterSocket: values['jupyter-socket'],
  connectionDir: values['connection-dir'],
  agentPort: Number(values['agent-port']),
  generationFile: values['generation-file'],
  defaultCwd: values.cwd,
  preload: values.preload.split(','),
  keepaliveMs: 5000,
})

await service.listen()

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.once(signal, () => {
    service.close()
    process.exit(0)
  })
}
