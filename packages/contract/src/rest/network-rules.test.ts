import { describe, expect, it } from 'vitest'
import { checkNetworkConfig, normaliseNetworkConfig, publicNetworkConfig } from './network-rules.ts'

describe('checkNetworkConfig', () => {
  it.each([
    [{}],
    [{ denyOut: ['0.0.0.0/0', '8.8.8.8', '2001:db8::/32'] }],
    [{ allowOut: ['example.com', '*.example.org', '*', '1.1.1.1'], denyOut: ['0.0.0.0/0'] }],
    [{ egressProxy: { address: 'proxy.example.com:1080', username: 'u', password: 'p' } }],
    [
      {
        egressProxy: null,
        maskRequestHost: `localhost:\${PORT}`,
        httpsPorts: [8443],
        dnsServers: ['1.1.1.1'],
      },
    ],
    [{ rules: { '*.Example.com': [{ transform: { headers: { authorization: `\${e2b.secrets.key}` } } }] } }],
  ])('accepts %j', (config) => {
    expect(checkNetworkConfig(config)).toBeUndefined()
  })

  it.each([
    [{ denyOut: ['example.com'] }, /example\.com/],
    [{ denyOut: ['0.0.0.0'] }, /0\.0\.0\.0/],
    [{ denyOut: ['10.0.0.0/33'] }, /10\.0\.0\.0\/33/],
    [{ allowOut: ['example.com'] }, /When specifying allowed domains/],
    [{ allowOut: ['exa mple'], denyOut: ['0.0.0.0/0'] }, /allowOut/],
    [{ egressProxy: { address: 'proxy' } }, /host:port/],
    [{ egressProxy: { address: 'proxy:1', password: 'x' } }, /username/],
    [{ egressProxy: { address: 'proxy:1', username: 'é'.repeat(128) } }, /255 bytes/],
    [{ egressProxy: { address: 'proxy:1', tls: { enabled: false, serverName: 'a' } } }, /enabled/],
    [{ dnsServers: ['::1'] }, /IPv4/],
    [{ httpsPorts: [49983] }, /49983/],
    [{ maskRequestHost: 'http://x' }, /maskRequestHost/],
    [{ maskRequestHost: 'exämple.com' }, /ASCII/],
    [{ rules: { '*': [] } }, /suffix/],
    [{ rules: { 'a.com': [], 'A.com': [] } }, /twice/],
    [{ rules: { 'a.com': [{}, {}] } }, /one rule/],
    [{ rules: { 'a.com': [{ transform: { headers: { 'bad name': 'x' } } }] } }, /header name/],
    [{ rules: { 'a.com': [{ transform: { headers: { x: 'a\r\nb' } } }] } }, /value/],
    [{ rules: { 'a.com': [{ transform: { headers: { x: 'a\x01b' } } }] } }, /value/],
    [{ rules: { 'a.com': [{ transform: { headers: { x: 'a\x7fb' } } }] } }, /value/],
    [{ rules: { 'a.com': [{ transform: { headers: { x: '€' } } }] } }, /value/],
  ])('refuses %j', (config, message) => {
    expect(checkNetworkConfig(config)).toMatch(message)
  })
})

it('lower-cases the domains of rules when stored', () => {
  expect(normaliseNetworkConfig({ rules: { 'API.com': [] } })).toEqual({ rules: { 'api.com': [] } })
})

it('never shows the password or the certificate of a proxy', () => {
  const shown = publicNetworkConfig({
    egressProxy: {
      address: 'a:1',
      username: 'u',
      password: 'p',
      tls: { enabled: true, caCert: 'c', serverName: 's' },
    },
  })
  expect(shown).toEqual({
    egressProxy: { address: 'a:1', username: 'u', tls: { enabled: true, serverName: 's' } },
  })
})
