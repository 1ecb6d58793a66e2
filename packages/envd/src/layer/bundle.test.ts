import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { bundleProgram } from './bundle.ts'

let dir: string

beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), 'bundle-'))
})
afterAll(() => rmSync(dir, { recursive: true }))

const program = (text: string): string => {
  const path = join(dir, 'main.ts')
  writeFileSync(path, text)
  return path
}

test("Node's own modules stay imports", async () => {
  const entry = program(
    "import { join } from 'node:path'\nimport fs from 'fs'\nconsole.log(join('a', 'b'), fs)",
  )
  expect(await bundleProgram(entry)).toContain('node:path')
})

test('a package that is not installed fails the build instead of the sandbox', async () => {
  const entry = program("import { parse } from 'no-such-package'\nparse()")
  await expect(bundleProgram(entry)).rejects.toThrow('not installed here: no-such-package')
})
