/**
 * Decorators, which neither V8 nor Node's type stripping knows, are rewritten by the TypeScript compiler: the user's
 * own where the project has one, else the template's. It is loaded by the first cell that needs it.
 */
import { type Node, parse } from 'acorn'

interface CompilerOptions {
  experimentalDecorators?: boolean
  emitDecoratorMetadata?: boolean
  useDefineForClassFields?: boolean
}

/** What is used of the package `typescript`. */
export interface Compiler {
  ScriptTarget: { ES2022: number }
  ModuleKind: { ESNext: number }
  sys: { fileExists(path: string): boolean; readFile(path: string): string | undefined }
  findConfigFile(directory: string, exists: (path: string) => boolean): string | undefined
  readConfigFile(
    path: string,
    read: (path: string) => string | undefined,
  ): { config?: { compilerOptions?: CompilerOptions } }
  transpileModule(code: string, options: { compilerOptions: object }): { outputText: string }
}

/** True where an expression or a class begins with a decorator, or a field is an `accessor`. */
export function hasDecorators(code: string): boolean {
  try {
    parse(code, { ecmaVersion: 'latest', sourceType: 'module', allowAwaitOutsideFunction: true })
    return false
  } catch (error) {
    const { pos } = error as Partial<{ pos: Node['start'] }>
    return pos !== undefined && (code[pos] === '@' || /\baccessor\s+$/.test(code.slice(0, pos)))
  }
}

/**
 * Code without decorators and types; its lines are others. Standard decorators, or those before the standard where the
 * nearest `tsconfig.json` above `directory` says `experimentalDecorators`.
 * @throws Error when no compiler is installed
 */
export function rewriteDecorators(code: string, directory: string, load: () => Compiler): string {
  const compiler = load()
  const path = compiler.findConfigFile(directory, compiler.sys.fileExists)
  const { experimentalDecorators, emitDecoratorMetadata, useDefineForClassFields } =
    (path && compiler.readConfigFile(path, compiler.sys.readFile).config?.compilerOptions) || {}
  const chosen = { experimentalDecorators, emitDecoratorMetadata, useDefineForClassFields }
  const target = { target: compiler.ScriptTarget.ES2022, module: compiler.ModuleKind.ESNext }
  return compiler.transpileModule(code, {
    compilerOptions: { ...chosen, ...target, verbatimModuleSyntax: true },
  }).outputText
}
