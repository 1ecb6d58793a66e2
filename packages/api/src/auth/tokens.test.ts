import { createHmac } from 'node:crypto'
import { expect, it } from 'vitest'
import { SandboxTokens } from './tokens.ts'

const tokens = new SandboxTokens('seed')

it('derives the tokens as E2B does', () => {
  const hmac = (text: string) => createHmac('sha256', 'seed').update(text).digest('hex')
  expect(tokens.envdToken('i1')).toBe(hmac('i1'))
  expect(tokens.trafficToken('i1')).toBe(hmac('sandbox-traffic-i1'))
})

it('opens an environment only for its sandbox and with its seed', () => {
  const sealed = tokens.sealEnv('i1', { KEY: 'välue' })
  expect(sealed).not.toBe(tokens.sealEnv('i1', { KEY: 'välue' }))
  expect(tokens.openEnv('i1', sealed)).toEqual({ KEY: 'välue' })
  expect(() => tokens.openEnv('i2', sealed)).toThrow()
  expect(() => new SandboxTokens('other').openEnv('i1', sealed)).toThrow()
  expect(tokens.openEnv('i1', tokens.sealEnv('i1', {}))).toEqual({})
})
