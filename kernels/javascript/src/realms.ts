/**
 * `Math.random` of other realms (`node:vm`): V8 seeds each from a state that a copy of the process shares, so each
 * gets this kernel's generator.
 */
import { syncBuiltinESMExports } from 'node:module'
import vm from 'node:vm'

/** Replaces what makes realms. Only realms made later are reached. */
export function installRandomInRealms(random: () => number): void {
  const { createContext, isContext } = vm
  const create: typeof createContext = (object, options) => {
    const context = createContext(object, options)
    const math: unknown = vm.runInContext('globalThis.Math', context)
    if (typeof math === 'object' && math !== null) Reflect.set(math, 'random', random)
    return context
  }
  const runInNewContext: typeof vm.Script.prototype.runInNewContext = function (
    this: vm.Script,
    object,
    options,
  ) {
    const isRealm = typeof object === 'object' && object !== null && isContext(object)
    return this.runInContext(isRealm ? object : create(object, contextOptions(options)), options)
  }
  vm.Script.prototype.runInNewContext = runInNewContext
  vm.createContext = create
  vm.runInNewContext = (code, object, options) => {
    const settings = typeof options === 'string' ? { filename: options } : options
    return new vm.Script(code, settings).runInNewContext(object, settings)
  }
  syncBuiltinESMExports()
}

/** The same options have other names where a script makes the realm itself. */
function contextOptions(options: vm.RunningScriptInNewContextOptions | undefined): vm.CreateContextOptions {
  const { contextName, contextOrigin, contextCodeGeneration, microtaskMode } = options ?? {}
  return {
    ...(contextName === undefined ? {} : { name: contextName }),
    ...(contextOrigin === undefined ? {} : { origin: contextOrigin }),
    ...(contextCodeGeneration === undefined ? {} : { codeGeneration: contextCodeGeneration }),
    ...(microtaskMode === undefined ? {} : { microtaskMode }),
  }
}
