import { Writable } from 'node:stream'
import { pino } from 'pino'
import { expect, it } from 'vitest'
import { startTestApi } from '../testing/test-api.ts'

it('writes one line per request, under the trace id of the answer, without any secret', async () => {
  const lines: string[] = []
  const sink = new Writable({
    write(chunk, _encoding, done) {
      lines.push(String(chunk))
      done()
    },
  })
  const test = await startTestApi({ logger: pino({ level: 'debug' }, sink) })
  const network = { allowPublicTraffic: false }
  const body = { templateID: 'base', envVars: { PASSWORD: 'hunter2hunter2' }, network }
  const created = await test.request('POST', '/v2/sandboxes', body)
  const { sandboxID, envdAccessToken, trafficAccessToken } = created.json<Record<string, string>>()
  await test.request('GET', `/sandboxes/${sandboxID}?secret=hunter2hunter2`)
  await test.request('GET', '/v2/sandboxes', undefined, { 'x-api-key': 'e2b_wrongwrongwrong' })
  await test.close()

  const requests = lines.map((line) => JSON.parse(line)).filter(({ msg }) => msg === 'request')
  expect(requests).toHaveLength(3)
  expect(requests[0]).toMatchObject({
    traceId: created.headers['x-e2b-trace-id'],
    method: 'POST',
    route: '/v2/sandboxes',
    status: 201,
    teamId: test.team.id,
    durationMs: expect.any(Number),
  })
  expect(requests[1]).toMatchObject({ sandboxId: sandboxID, status: 200 })
  expect(requests[2]).toMatchObject({ status: 401, error: expect.any(String) })
  const log = lines.join('')
  for (const secret of [test.key, envdAccessToken!, trafficAccessToken!, 'hunter2', 'e2b_wrong']) {
    expect(log).not.toContain(secret)
  }
})
