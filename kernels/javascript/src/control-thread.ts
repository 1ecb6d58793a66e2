/** The thread that works while the user's code runs: heartbeat, interrupt, shutdown, and all output. */
import { Worker, workerData } from 'node:worker_threads'
import { readConnectionFile } from './connection-file.ts'
import { Interrupter } from './interrupts.ts'
import { kernelInfo } from './kernel-info.ts'
import type { OutputSources } from './output-sources.ts'
import { Publisher } from './publisher.ts'
import { MessageCodec, type WireMessage } from './wire-message.ts'
import { type Peer, ZmtpListener } from './zmtp-listener.ts'

interface ControlData {
  connectionFile: string
  shared: SharedArrayBuffer
  sources: OutputSources
}

const MAX_HEAP_MIB = 16
/** Not what the user's code gets for it. */
const ControlWorker = Worker

/** Main thread: starts the other one. It ends with the process. */
export function startControlThread(file: URL, data: ControlData): Promise<void> {
  const worker = new ControlWorker(file, {
    workerData: data,
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB, maxYoungGenerationSizeMb: 1 },
  })
  return new Promise((resolve, reject) => {
    worker.once('message', () => resolve())
    worker.once('error', reject)
  })
}

/** Runs in that thread. Resolves when it listens. */
export async function serveControl(): Promise<void> {
  const { connectionFile, shared, sources } = workerData as ControlData
  const connection = readConnectionFile(connectionFile)
  const codec = new MessageCodec(connection.key, `control-${process.pid}`)
  const interrupter = new Interrupter(shared)
  const answer = (parts: Buffer[], peer: Peer): void => {
    const message = codec.decode(parts)
    const reply = (content: Record<string, unknown>): void => {
      const type = message.header.msg_type.replace('_request', '_reply')
      peer.send(codec.encode(type, { status: 'ok', ...content }, message))
    }
    act(message, reply, interrupter)
  }
  const control = new ZmtpListener('ROUTER', answer)
  const heartbeat = new ZmtpListener('REP')
  await new Publisher(sources, codec).listen(connection.endpoint('iopub_port'))
  await control.listen(connection.endpoint('control_port'))
  await heartbeat.listen(connection.endpoint('hb_port'))
}

function act(
  message: WireMessage,
  reply: (content: Record<string, unknown>) => void,
  interrupter: Interrupter,
): void {
  switch (message.header.msg_type) {
    case 'kernel_info_request':
      reply(kernelInfo)
      return
    case 'interrupt_request':
      void interrupter.interrupt()
      reply({})
      return
    case 'shutdown_request':
      reply({ restart: message.content.restart === true })
      // Not `process.exit`, which would end this thread alone.
      setImmediate(() => process.kill(process.pid, 'SIGKILL'))
      return
    default:
  }
}
