/** `import` and `require` in cells: relative to the working directory, then the home, then what npm has globally. */
import { createRequire, Module } from 'node:module'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import vm from 'node:vm'

type Namespace = Record<string, unknown>
type Loader = (specifier: string, options?: object) => Promise<Namespace>

const CELL = '[cell].js'
const GLOBAL_DIR = join(dirname(process.execPath), '../lib')
const loaders = new Map<string, Loader>()

/** Node's loader, which resolves relative to a script's file name. */
function loaderFor(directory: string): Loader {
  const known = loaders.get(directory)
  if (known !== undefined) return known
  const script = new vm.Script('(specifier, options) => import(specifier, options)', {
    filename: join(directory, CELL),
    importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  })
  const loader: Loader = script.runInThisContext()
  loaders.set(directory, loader)
  return loader
}

const isBare = (specifier: string): boolean => /^(?![./]|[a-z][a-z0-9+.-]*:)/i.test(specifier)

/** Where a specifier is looked for, in order. */
function directoriesFor(specifier: string): string[] {
  return isBare(specifier) ? [process.cwd(), homedir(), GLOBAL_DIR] : [process.cwd()]
}

/** @throws what Node's `import()` throws; the first refusal when the module is found nowhere */
export async function importModule(specifier: unknown, options?: object): Promise<Namespace> {
  const name = String(specifier)
  let refusal: unknown
  for (const directory of new Set(directoriesFor(name))) {
    try {
      return await loaderFor(directory)(name, options)
    } catch (error) {
      if (!isMissing(error, directory)) throw error
      refusal ??= error
    }
  }
  throw refusal
}

function isMissing(error: unknown, directory: string): boolean {
  const { code, message } = error as NodeJS.ErrnoException
  return code === 'ERR_MODULE_NOT_FOUND' && message.endsWith(`imported from ${join(directory, CELL)}`)
}

/**
 * What an `import` declaration binds. A name that a CommonJS module has without telling so is taken from its
 * exports. @throws SyntaxError when the module lacks one of `names`
 */
export async function importNames(
  specifier: string,
  options: object,
  names: readonly string[],
): Promise<Namespace> {
  const namespace = await importModule(specifier, options)
  const missing = names.filter((name) => !(name in namespace))
  if (missing.length === 0) return namespace
  const exported = Object(namespace.default) as Namespace
  const lost = missing.find((name) => !(name in exported))
  if (lost !== undefined) {
    throw new SyntaxError(`The requested module '${specifier}' does not provide an export named '${lost}'`)
  }
  return { ...namespace, ...Object.fromEntries(missing.map((name) => [name, exported[name]])) }
}

/** As `require` in a cell. */
export function requireModule(specifier: string): unknown {
  let refusal: unknown
  for (const directory of new Set(directoriesFor(specifier))) {
    const require = createRequire(join(directory, CELL))
    try {
      require.resolve(specifier)
    } catch (error) {
      refusal ??= error
      continue
    }
    return require(specifier)
  }
  throw refusal
}

/** What scripts find: `require`, `module`, `exports`, and the cell's own `import.meta`. */
export function installModuleGlobals(): void {
  const module = { id: '.', exports: {}, loaded: false, children: [], paths: [] }
  const require = Object.assign(requireModule, {
    cache: createRequire(join(homedir(), CELL)).cache,
    resolve: (specifier: string) => createRequire(join(process.cwd(), CELL)).resolve(specifier),
    // Scripts ask whether they are the program: `require.main === module`.
    main: module,
    builtinModules: Module.builtinModules,
  })
  const globals: [string, PropertyDescriptor][] = [
    ['require', { value: require, writable: true }],
    ['module', { value: module, writable: true }],
    ['exports', { value: module.exports, writable: true }],
    ['__dirname', { get: () => process.cwd(), set: shadow('__dirname') }],
    ['__filename', { get: () => join(process.cwd(), CELL), set: shadow('__filename') }],
  ]
  for (const [name, descriptor] of globals) {
    Object.defineProperty(globalThis, name, { ...descriptor, configurable: true, enumerable: false })
  }
}

/** An assignment replaces the property. */
const shadow = (name: string) => (value: unknown) => {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: true })
}

export function cellMeta(): Record<string, unknown> {
  const filename = join(process.cwd(), CELL)
  return {
    url: pathToFileURL(filename).href,
    dirname: process.cwd(),
    filename,
    main: true,
    resolve: (specifier: string) => {
      const found = createRequire(filename).resolve(specifier)
      return found.startsWith('/') ? pathToFileURL(found).href : found
    },
  }
}
