/**
 * Makes of a cell what V8's console mode takes: types are stripped, `import` declarations become awaited calls,
 * `export` disappears. What does not parse is left as it is, so that V8 names the error.
 */
import { stripTypeScriptTypes } from 'node:module'
import { type AnyNode, type ImportDeclaration, type Program, parse } from 'acorn'
import { type Compiler, hasDecorators, rewriteDecorators } from './decorators.ts'
import { requireModule } from './modules.ts'

/** Where the kernel's own functions are found from a cell. */
export const KERNEL_EXPRESSION = 'globalThis[Symbol.for("e2b.kernel")]'

type CellLanguage = 'javascript' | 'typescript'

interface Edit {
  start: number
  end: number
  text: string
}

/** @returns code of the same lines, but for that of decorators. @throws Error when these need what is not installed */
export function prepareSource(code: string, language: CellLanguage): string {
  if (language === 'javascript') {
    const program = tryParse(code)
    if (program !== undefined) return rewrite(code, program, false)
  }
  const stripped = stripTypes(code)
  if (stripped === undefined) return code
  const plain = hasDecorators(stripped) ? rewriteDecorators(code, process.cwd(), loadCompiler) : stripped
  const program = tryParse(plain)
  return program === undefined ? plain : rewrite(plain, program, true)
}

function loadCompiler(): Compiler {
  try {
    return requireModule('typescript') as Compiler
  } catch (error) {
    throw new Error('Decorators need the TypeScript compiler: run `npm install typescript`', { cause: error })
  }
}

/** Types become blanks; what has to be generated (enums, parameter properties) only where there is such. */
function stripTypes(code: string): string | undefined {
  for (const mode of ['strip', 'transform'] as const) {
    try {
      return stripTypeScriptTypes(code, { mode })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX') return undefined
    }
  }
  return undefined
}

function tryParse(code: string): Program | undefined {
  try {
    return parse(code, {
      ecmaVersion: 'latest',
      sourceType: 'module',
      allowAwaitOutsideFunction: true,
      allowHashBang: true,
      allowReturnOutsideFunction: false,
    })
  } catch {
    return parseSloppily(code)
  }
}

/** Code that only holds outside of modules (`with`, octal numbers, names such as `await`). */
function parseSloppily(code: string): Program | undefined {
  try {
    return parse(code, { ecmaVersion: 'latest', sourceType: 'script', allowAwaitOutsideFunction: true })
  } catch {
    return undefined
  }
}

function rewrite(code: string, program: Program, isTyped: boolean): string {
  const edits: Edit[] = []
  const keepLines = ({ start, end }: { start: number; end: number }, text: string): void => {
    edits.push({ start, end, text: text + '\n'.repeat(code.slice(start, end).split('\n').length - 1) })
  }
  for (const node of program.body) {
    if (node.type === 'ImportDeclaration') keepLines(node, importCall(node, isTyped))
    else if (node.type === 'ExportNamedDeclaration') {
      if (node.declaration) edits.push({ start: node.start, end: node.declaration.start, text: '' })
      else keepLines(node, '')
    } else if (node.type === 'ExportDefaultDeclaration') {
      edits.push({ start: node.start, end: node.declaration.start, text: '' })
    } else if (node.type === 'ExportAllDeclaration') keepLines(node, '')
  }
  visit(program, (node) => {
    if (node.type === 'ImportExpression') {
      edits.push({
        start: node.start,
        end: node.start + 'import'.length,
        text: `${KERNEL_EXPRESSION}.importModule`,
      })
    } else if (node.type === 'MetaProperty' && node.meta.name === 'import') {
      edits.push({ start: node.start, end: node.end, text: `${KERNEL_EXPRESSION}.meta` })
    }
  })
  return wrapObject(apply(code, edits), program)
}

function apply(code: string, edits: Edit[]): string {
  let result = code
  for (const { start, end, text } of edits.toSorted((a, b) => b.start - a.start)) {
    result = result.slice(0, start) + text + result.slice(end)
  }
  return result
}

/** `{a: 1}` alone is meant as an object, though a program reads it as a block with a label. */
function wrapObject(code: string, program: Program): string {
  const [only, ...others] = program.body
  if (only?.type !== 'BlockStatement' || others.length > 0) return code
  const wrapped = `(${code.trimEnd()}\n)`
  return tryParse(wrapped) === undefined ? code : wrapped
}

function importCall(node: ImportDeclaration, isTyped: boolean): string {
  const attributes = node.attributes.map(
    ({ key, value }) => `${key.type === 'Identifier' ? key.name : key.raw}: ${value.raw}`,
  )
  const named: string[] = []
  const names: string[] = []
  let namespace: string | undefined
  for (const specifier of node.specifiers) {
    if (specifier.type === 'ImportNamespaceSpecifier') namespace = specifier.local.name
    else if (specifier.type === 'ImportDefaultSpecifier') {
      named.push(`default: ${specifier.local.name}`)
      names.push('"default"')
    } else {
      const { imported } = specifier
      const key = imported.type === 'Identifier' ? JSON.stringify(imported.name) : (imported.raw ?? '')
      named.push(`${key}: ${specifier.local.name}`)
      names.push(key)
    }
  }
  // In TypeScript a missing name may be that of a type.
  const checked = isTyped ? '' : names.join(', ')
  const call =
    `await ${KERNEL_EXPRESSION}.importNames(${node.source.raw}, ` +
    `{ with: { ${attributes.join(', ')} } }, [${checked}])`
  if (namespace !== undefined) {
    const rest = named.length > 0 ? `, { ${named.join(', ')} } = ${namespace}` : ''
    return `const ${namespace} = ${call}${rest};`
  }
  return named.length > 0 ? `const { ${named.join(', ')} } = ${call};` : `void ${call};`
}

function visit(node: AnyNode, act: (node: AnyNode) => void): void {
  act(node)
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (isNode(child)) visit(child, act)
    }
  }
}

function isNode(value: unknown): value is AnyNode {
  return typeof value === 'object' && value !== null && typeof (value as { type?: unknown }).type === 'string'
}
