import { expect, test } from 'vitest'
import { exitStatus } from './exit-status.ts'

test('the status of wait(2) in the words of Go', () => {
  expect(exitStatus(0)).toEqual({ exitCode: 0, exited: true, status: 'exit status 0' })
  expect(exitStatus(3 << 8)).toMatchObject({ exitCode: 3, exited: true, error: 'exit status 3' })
  expect(exitStatus(9)).toMatchObject({ exitCode: -1, exited: false, status: 'signal: killed' })
  expect(exitStatus(11 | 0x80).status).toBe('signal: segmentation fault (core dumped)')
  expect(exitStatus(64).error).toBe('signal: signal 64')
})
