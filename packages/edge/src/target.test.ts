import { expect, test } from 'vitest'
import { hostName, readTarget } from './target.ts'

const read = (host: string, headers: Record<string, string> = {}) =>
  readTarget(host, 'api.e2b.localhost', (name) => headers[name])
const refused = (message: string) => ({ kind: 'refused', message })
const sandbox = (port: number) => ({ kind: 'sandbox', sandboxId: 'iabc', port })

test.each([
  ['e2b.localhost:3443', 'e2b.localhost'],
  ['[::1]:80', '::1'],
  ['::1', '::1'],
  ['API.e2b.dev', 'api.e2b.dev'],
])('the name of %s is %s', (authority, name) => expect(hostName(authority)).toBe(name))

test('the API goes by its name, whatever headers say', () => {
  expect(read('api.e2b.localhost:3443', { 'e2b-sandbox-id': 'iabc' })).toEqual({ kind: 'api' })
})

test('port and id stand in the first label, a client id is ignored', () => {
  expect(read('49983-iabc.e2b.localhost:3443')).toEqual(sandbox(49983))
  expect(read('8080-iabc-client.e2b.localhost')).toEqual(sandbox(8080))
  expect(read('8080-IABC.e2b.localhost')).toEqual(sandbox(8080))
})

test.each(['localhost:3002', '127.0.0.1', '[::1]:3002', 'sandbox.e2b.localhost'])(
  '%s goes by headers',
  (host) => {
    expect(read(host, { 'e2b-sandbox-id': 'iabc', 'e2b-sandbox-port': '49999' })).toEqual(sandbox(49999))
    expect(read(host, { 'e2b-sandbox-id': 'iabc' })).toEqual(refused('missing header'))
    expect(read(host, { 'e2b-sandbox-port': '1' })).toEqual(refused('missing header'))
    expect(read(host, { 'e2b-sandbox-id': 'iabc', 'e2b-sandbox-port': 'x' })).toEqual(
      refused('Invalid sandbox port'),
    )
    expect(read(host, { 'e2b-sandbox-id': 'i_a', 'e2b-sandbox-port': '1' })).toEqual(
      refused('Invalid sandbox ID'),
    )
    expect(read(host)).toEqual(refused('Invalid host'))
  },
)

test('a sandbox host does not go by headers', () => {
  const headers = { 'e2b-sandbox-id': 'iother', 'e2b-sandbox-port': '1' }
  expect(read('8080-iabc.e2b.localhost', headers)).toEqual(sandbox(8080))
})

test.each([
  ['', 'Invalid host'],
  ['nodots', 'Invalid host'],
  ['80-iabc', 'Invalid host'],
  ['plain.e2b.localhost', 'Invalid host'],
  ['x-iabc.e2b.localhost', 'Invalid sandbox port'],
  ['99999-iabc.e2b.localhost', 'Invalid sandbox port'],
  ['0-iabc.e2b.localhost', 'Invalid sandbox port'],
  ['-iabc.e2b.localhost', 'Invalid sandbox port'],
  ['80-.e2b.localhost', 'Invalid sandbox ID'],
  ['80-i_b.e2b.localhost', 'Invalid sandbox ID'],
])('%j is refused with %s', (host, message) => expect(read(host)).toEqual(refused(message)))
