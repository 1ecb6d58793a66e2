import { expect, test } from 'vitest'
import { mirrorsIn } from './mirrors.ts'

test('mirrors are read from one-line sources and from deb822 fields, comments and options aside', () => {
  const text = [
    '# deb http://commented.example/debian sid main',
    'deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://one.example/debian/ bookworm main',
    'Types: deb',
    'URIs: http://two.example/debian https://three.example/debian',
  ].join('\n')
  expect(mirrorsIn(text)).toEqual([
    'http://one.example/debian',
    'http://two.example/debian',
    'https://three.example/debian',
  ])
})
