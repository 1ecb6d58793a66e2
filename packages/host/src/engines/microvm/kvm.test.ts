import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { kvmFault } from './kvm.ts'

let root: string
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kvm-'))
})
afterEach(() => rmSync(root, { recursive: true }))

const device = (): void => {
  mkdirSync(join(root, 'dev'))
  writeFileSync(join(root, 'dev/kvm'), '')
}
const module = (name: string): unknown => mkdirSync(join(root, 'sys/module', name), { recursive: true })

test('without a device there is no KVM', () => {
  module('kvm_intel')
  expect(kvmFault(root)?.detail).toBe('there is no /dev/kvm')
})

test.runIf(process.arch === 'x64')('a KVM that is not of the processor is not tried', () => {
  device()
  module('kvm')
  module('kvm_other')
  expect(kvmFault(root)?.detail).toContain('neither kvm_intel nor kvm_amd')
})

test.each(['kvm_intel', 'kvm_amd'])('a guest may be booted to find out what %s can do', (name) => {
  device()
  module(name)
  expect(kvmFault(root)).toBeUndefined()
})
