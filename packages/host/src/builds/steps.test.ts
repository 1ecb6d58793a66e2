import { expect, test } from 'vitest'
import { baseKey, stepKey } from './step-cache.ts'
import { applyStep, type BuildStep, expandedEnv, stepType, touchesFiles } from './steps.ts'

const context = { envVars: { HOME_DIR: '/srv' }, user: 'root', workdir: '/' }
const step = (type: string, ...args: string[]): BuildStep => ({ type, args, filesHash: '', force: false })

test('ENV values expand variables and keep everything else literal', () => {
  const args = ['A', '$HOME_DIR/x', 'B', '${A}:$MISSING:', 'C', '`id` $(id) "q" \\n']
  expect(expandedEnv(args, context.envVars)).toEqual({
    HOME_DIR: '/srv',
    A: '/srv/x',
    B: '/srv/x::',
    C: '`id` $(id) "q" \\n',
  })
})

test('ENV without pairs or with a name that is none is refused', () => {
  expect(() => expandedEnv(['A'], {})).toThrow('in pairs')
  expect(() => expandedEnv([], {})).toThrow('in pairs')
  expect(() => expandedEnv(['A B', 'x'], {})).toThrow('no valid name')
})

test('a variable named like a property of objects is not found in the prototype', () => {
  expect(expandedEnv(['A', '$constructor'], {})).toEqual({ A: '' })
})

test('step types match in any case; unknown ones are named', () => {
  expect(stepType(step('run', 'true'))).toBe('RUN')
  expect(() => stepType(step('FLY'))).toThrow("unknown build step 'FLY'")
})

test('ENV needs no sandbox, all others do', async () => {
  expect(['RUN', 'COPY', 'ENV', 'WORKDIR', 'USER'].filter((type) => touchesFiles(step(type)))).toEqual([
    'RUN',
    'COPY',
    'WORKDIR',
    'USER',
  ])
  expect((await applyStep(step('env', 'A', '1'), context, undefined)).envVars).toEqual({
    HOME_DIR: '/srv',
    A: '1',
  })
})

test('the key of a step changes with the base, with every earlier step and with its own arguments only', () => {
  const base = baseKey({ layers: ['a'], context })
  const same = baseKey({ layers: ['a'], context: { ...context, envVars: { ...context.envVars } } })
  expect(same).toBe(base)
  expect(baseKey({ layers: ['b'], context })).not.toBe(base)
  expect(baseKey({ layers: ['a'], context: { ...context, user: 'user' } })).not.toBe(base)
  const first = stepKey(base, step('RUN', 'true'))
  expect(stepKey(base, { ...step('run', 'true'), force: true })).toBe(first)
  expect(stepKey(base, step('RUN', 'false'))).not.toBe(first)
  expect(stepKey(first, step('RUN', 'true'))).not.toBe(first)
})
