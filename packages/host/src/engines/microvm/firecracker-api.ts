import { existsSync, watch } from 'node:fs'
import { request } from 'node:http'
import { connect } from 'node:net'
import { dirname } from 'node:path'
import { setImmediate as nextTurn } from 'node:timers/promises'

/** Firecracker's API: HTTP over a unix socket, one request at a time. */

const LONGEST_ANSWER_BYTES = 64 * 1024

/** What Firecracker refuses, in its own words. */
export class FirecrackerError extends Error {
  override readonly name = 'FirecrackerError'
}

/** @throws FirecrackerError; Node's error when the monitor is gone or does not answer within `withinMs` */
export function callFirecracker(
  socketPath: string,
  method: 'PUT' | 'PATCH',
  path: string,
  body: unknown,
  withinMs: number,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const text = JSON.stringify(body)
    const headers = { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) }
    const outgoing = request(
      { socketPath, method, path, headers, agent: false, signal: AbortSignal.timeout(withinMs) },
      (incoming) => {
        let said = ''
        incoming.setEncoding('utf8')
        incoming.on('data', (chunk: string) => {
          said = (said + chunk).slice(0, LONGEST_ANSWER_BYTES)
        })
        incoming.on('error', reject)
        incoming.on('end', () => {
          const status = incoming.statusCode ?? 0
          if (status >= 200 && status < 300) return resolve()
          reject(
            new FirecrackerError(`${method} ${path} was answered with ${status}: ${said.slice(0, 1_000)}`),
          )
        })
      },
    )
    outgoing.on('error', reject)
    outgoing.end(text)
  })
}

/** Waits until somebody listens on the socket; its appearance is noticed, not polled. @throws Error after `withinMs` */
export async function listening(socketPath: string, withinMs: number): Promise<void> {
  let news = Promise.withResolvers<void>()
  let isLate = false
  const watcher = watch(dirname(socketPath), () => news.resolve())
  const timer = setTimeout(() => {
    isLate = true
    news.resolve()
  }, withinMs)
  try {
    for (;;) {
      news = Promise.withResolvers()
      if (await accepts(socketPath)) return
      if (isLate) throw new Error(`nobody listens on ${socketPath} after ${withinMs} ms`)
      // Between its appearance and its listening lie microseconds, and nothing tells of the second.
      await (existsSync(socketPath) ? nextTurn() : news.promise)
    }
  } finally {
    clearTimeout(timer)
    watcher.close()
  }
}

function accepts(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath)
    socket.once('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.once('error', () => resolve(false))
  })
}
