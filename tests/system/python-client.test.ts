import { expect, it } from 'vitest'
import { python, runClientProgram } from './harness/client-program.ts'

it('the official Python clients pass their tests', async () => {
  const pytest = ['-m', 'pytest', '-q', '-p', 'no:cacheprovider', 'tests/python']
  const { status, output } = await runClientProgram(python, pytest)
  expect(status, output).toBe(0)
}, 180_000)
