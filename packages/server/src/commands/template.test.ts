import { expect, test } from 'vitest'
import { sentenceOf } from './template.ts'

test.each([
  ['auto', "default/mine runs on each host's own engine (auto)"],
  ['gvisor', 'default/mine runs on gvisor'],
  [undefined, 'default/mine runs on the engine that it was taken on'],
])('says what sandboxes run on where the template says %s', (isolation, sentence) => {
  expect(sentenceOf({ templateID: 'id', names: ['default/mine'], isolation })).toBe(sentence)
})
