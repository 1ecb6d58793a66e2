import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { KERNEL_EXPRESSION, prepareSource } from './cell-source.ts'
import { type Compiler, hasDecorators, rewriteDecorators } from './decorators.ts'

const compiler: Compiler = createRequire(import.meta.url)('typescript')

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

/** Runs what a cell becomes, and gives its `seen`. */
const seenBy = (code: string): unknown => new Function(`const seen = [];${typescript(code)};return seen`)()

test('standard decorators run', () => {
  const log =
    'function log(value: unknown, { kind, name }: { kind: string; name: string }) { seen.push(kind, name) }'
  const code = `${log}\n@log class A { @log m(): void {} @log accessor x = 1; constructor(readonly y: number) {} }
    seen.push(new A(5).y, new A(5).x)`
  expect(seenBy(code)).toEqual(['method', 'm', 'accessor', 'x', 'class', 'A', 5, 1])
  expect(javascript('const f = () => 1; @f class B {}')).toContain('let B')
})

test('decorators before the standard run where the project says so', () => {
  const directory = mkdtempSync(join(tmpdir(), 'cells-'))
  const options = { experimentalDecorators: true }
  writeFileSync(join(directory, 'tsconfig.json'), JSON.stringify({ compilerOptions: options }))
  const rewritten = rewriteDecorators('class A { @d m(@p a: number) {} }', directory, () => compiler)
  expect(rewritten).toContain('__decorate([')
  expect(rewritten).toContain('__param(0, p)')
  rmSync(directory, { recursive: true })
})

test('only decorators need a compiler', () => {
  expect(hasDecorators('const a = "@d class A {}"; a b')).toBe(false)
  expect(hasDecorators('class A { accessor = 1 }')).toBe(false)
  expect(hasDecorators('class A { accessor x = 1 }')).toBe(true)
})

test('what does not parse is left to V8', () => {
  expect(javascript('var a b')).toBe('var a b')
})
