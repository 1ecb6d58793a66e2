import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { generateOpenapi, OPENAPI_PATH } from './openapi.ts'

it('is what openapi.yaml holds (refresh it with `node packages/api/src/openapi.ts`)', async () => {
  expect(readFileSync(OPENAPI_PATH, 'utf8')).toBe(await generateOpenapi())
})
