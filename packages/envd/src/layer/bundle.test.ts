import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { base64Encode } from '@bufbuild/protobuf/wire'
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

test("bytes in JSON messages are encoded by Node, as the library's own loop does it", async () => {
  const resolved = createRequire(import.meta.url).resolve('@bufbuild/protobuf/wire')
  const wire = join(resolved, '../../../esm/wire/index.js')
  const entry = program(`export { base64Encode } from ${JSON.stringify(wire)}`)
  const file = join(dir, 'encode.mjs')
  writeFileSync(file, await bundleProgram(entry))
  const bundled = (await import(file)) as { base64Encode: typeof base64Encode }
  expect(bundled.base64Encode.toString()).toContain('Buffer.from')
  const bytes = randomBytes(300)
  for (let length = 0; length < 100; length++) {
    const part = bytes.subarray(length, 2 * length)
    for (const encoding of ['std', 'std_raw', 'url'] as const)
      expect(bundled.base64Encode(part, encoding)).toBe(base64Encode(part, encoding))
  }
})
