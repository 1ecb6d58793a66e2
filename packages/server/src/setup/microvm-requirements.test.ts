import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { checkMicrovmRequirements } from './microvm-requirements.ts'

const FLAWS = 'sys/devices/system/cpu/vulnerabilities'
/** A machine as the guide wants it. */
const GOOD: Record<string, string> = {
  'dev/kvm': '',
  'sys/module/kvm_intel/refcnt': '0',
  'sys/module/kvm/parameters/nx_huge_pages': 'Y',
  'sys/devices/system/cpu/smt/control': 'forceoff',
  'sys/kernel/mm/ksm/run': '0',
  'sys/kernel/mm/transparent_hugepage/enabled': 'always [madvise] never',
  'sys/devices/system/edac/mc/mc0/ce_count': '0',
  'sys/fs/cgroup/cgroup.controllers': 'cpu memory pids',
  'proc/swaps': 'Filename\tType\tSize\tUsed\tPriority',
  'proc/cpuinfo': 'microcode\t: 0xd000404',
  [`${FLAWS}/meltdown`]: 'Mitigation: PTI',
  [`${FLAWS}/spectre_v1`]: 'Mitigation: usercopy/swapgs barriers',
  [`${FLAWS}/spectre_v2`]: 'Mitigation: Enhanced / Automatic IBRS',
  [`${FLAWS}/l1tf`]: 'Not affected',
  [`${FLAWS}/spec_store_bypass`]: 'Mitigation: Speculative Store Bypass disabled via prctl',
  [`${FLAWS}/itlb_multihit`]: 'KVM: Mitigation: VMX disabled',
  [`${FLAWS}/mds`]: 'Not affected',
}

let root: string

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'machine-'))
})

afterEach(() => rmSync(root, { recursive: true }))

/** Names of the verdicts that are not met on such a machine. */
function failing(changes: Record<string, string | undefined>): string[] {
  rmSync(root, { recursive: true })
  for (const [path, content] of Object.entries({ ...GOOD, ...changes })) {
    if (content === undefined) continue
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), `${content}\n`)
  }
  const found = checkMicrovmRequirements(root).filter(({ ok }) => !ok)
  for (const { remedy } of found) expect(remedy).not.toBe('')
  return found.map(({ name }) => name.replace('microvm: ', ''))
}

test('a machine as the guide wants it passes', () => {
  expect(failing({})).toEqual([])
})

test.each([
  ['KVM module', { 'sys/module/kvm_intel/refcnt': undefined }],
  ['/dev/kvm', { 'dev/kvm': undefined }],
  ['nested virtualisation', { 'sys/module/kvm_intel/parameters/nested': 'Y' }],
  ['SMT', { 'sys/devices/system/cpu/smt/control': 'on' }],
  ['KSM', { 'sys/kernel/mm/ksm/run': '1' }],
  ['swap', { 'proc/swaps': 'Filename Type\n/dev/sda2 partition 1 0 -2' }],
  ['page-table isolation', { [`${FLAWS}/meltdown`]: 'Vulnerable' }],
  ['branch prediction', { [`${FLAWS}/spectre_v1`]: 'Vulnerable: __user pointer sanitization' }],
  ['branch prediction', { [`${FLAWS}/spectre_v2`]: 'Vulnerable, IBPB: disabled' }],
  ['L1 terminal fault', { [`${FLAWS}/l1tf`]: 'Vulnerable' }],
  ['speculative stores', { [`${FLAWS}/spec_store_bypass`]: 'Vulnerable' }],
  ['other CPU flaws', { [`${FLAWS}/retbleed`]: 'Vulnerable' }],
  ['huge pages of KVM', { 'sys/module/kvm/parameters/nx_huge_pages': 'N' }],
  ['transparent huge pages', { 'sys/kernel/mm/transparent_hugepage/enabled': '[always] madvise never' }],
  ['memory with ECC', { 'sys/devices/system/edac/mc/mc0/ce_count': undefined }],
  ['cgroup v2', { 'sys/fs/cgroup/cgroup.controllers': undefined }],
])('%s has a verdict of its own', (name, changes) => {
  expect(failing(changes)).toEqual([name])
})

test('microcode that is too old is told with what it leaves open', () => {
  const state = 'Vulnerable: Clear CPU buffers attempted, no microcode'
  expect(failing({ [`${FLAWS}/mds`]: state })).toEqual(['other CPU flaws', 'microcode'])
})
