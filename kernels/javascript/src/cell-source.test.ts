import { expect, test } from 'vitest'
import { KERNEL_EXPRESSION, prepareSource } from './cell-source.ts'

const javascript = (code: string): string => prepareSource(code, 'javascript')
const typescript = (code: string): string => prepareSource(code, 'typescript')

test('imports become awaited calls that bind the same names', () => {
  expect(javascript("import a, { b as c } from 'm'")).toBe(
    `const { default: a, "b": c } = await ${KERNEL_EXPRESSION}.importNames('m', { with: {  } }, ["default", "b"]);`,
  )
  expect(javascript("import * as n from 'm'")).toContain('const n = await')
  expect(javascript("import 'm'")).toMatch(/^void await/)
  expect(javascript("await import('m')")).toBe(`await ${KERNEL_EXPRESSION}.importModule('m')`)
})

test('lines stay where they are', () => {
  const code = "import {\n  a,\n} from 'm'\nexport {\n  a,\n}\nthrow 1"
  expect(javascript(code).split('\n').indexOf('throw 1')).toBe(6)
})

test('exports are dropped, what they export stays', () => {
  expect(javascript('export const a = 1; export default a')).toBe('const a = 1; a')
})

test('an object alone is an object; a block is a block', () => {
  expect(javascript('{ a: 1 }')).toBe('({ a: 1 }\n)')
  expect(javascript('{ let a = 1; a }')).toBe('{ let a = 1; a }')
})

test('TypeScript loses its types; enums are generated; types win over comparisons', () => {
  expect(typescript('const a: number = 1').replaceAll(/\s+/g, ' ')).toBe('const a = 1')
  expect(typescript('enum E { A }')).toContain('E["A"] = 0')
  expect(typescript('f<string>("x")').replaceAll(' ', '')).toBe('f("x")')
  expect(javascript('interface A { b: string }\nlet c: A').trim()).toMatch(/let c/)
})

test('an import in TypeScript may name a type', () => {
  expect(typescript("import { A } from 'm'")).toContain(', [])')
})

test('what does not parse is left to V8', () => {
  expect(javascript('var a b')).toBe('var a b')
})
