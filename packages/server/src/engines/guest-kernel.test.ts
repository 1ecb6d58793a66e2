import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { checkGuestKernel, verdict } from './guest-kernel.ts'

const OLDER = 'linux-image-6.1.0-56-cloud-amd64 6.1.192-2'
const NEWER = 'linux-image-6.12.117+deb12-cloud-amd64 6.12.117-1~deb12u1'

test('a guest kernel that is not the one of today has a remedy', () => {
  expect(verdict(NEWER, NEWER)).toMatchObject({ ok: true, detail: NEWER, remedy: '' })
  const old = verdict(OLDER, NEWER)
  expect(old).toMatchObject({ ok: false, required: false, detail: `${OLDER}; apt serves ${NEWER}` })
  expect(old.remedy).toContain('engine -- install')
})

test('without a guest image there is nothing to say', async () => {
  const imagesDir = mkdtempSync(join(tmpdir(), 'images-'))
  try {
    expect(await checkGuestKernel({ imagesDir, guestKernel: '' })).toBeUndefined()
  } finally {
    rmSync(imagesDir, { recursive: true })
  }
})
