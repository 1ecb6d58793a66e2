/**
 * What the service needs to know of a language: which kernel runs it, and how its silent work is written.
 * A language that is not in the table is taken as the name of an installed kernelspec.
 */

/** What the silent code before an execution has to do. Absent parts are left alone. */
export interface Preparation {
  /** Working directory; set once in the life of a kernel process. */
  cwd?: string
  /** Sandbox-wide variables that are new or changed. */
  env?: Record<string, string>
  /** Variables of this execution alone; `restore` takes them back. */
  runEnv?: Record<string, string>
  /** True in the first execution of a copied kernel: every random state in user space must become its own. */
  reseed?: boolean
}

export interface Language {
  kernelName: string
  /** One silent request that does all of it. Must not raise, must leave no name behind. */
  prepare(preparation: Preparation): string
  /** Silent code that touches what the first result would otherwise load. */
  warm?: string
  /** One silent request that puts the variables of the last execution back. */
  restore(names: string[], global: Readonly<Record<string, string>>): string
}

/** Lower-cased, trimmed and without abbreviation; `python` when none is given. */
export function normalizeLanguage(language: string | null | undefined): string {
  const name = language?.toLowerCase().trim() || 'python'
  return name === 'js' ? 'javascript' : name === 'ts' ? 'typescript' : name
}

export function languageFor(name: string): Language {
  return Object.hasOwn(languages, name) ? languages[name]! : { ...silent, kernelName: name }
}

const silent: Omit<Language, 'kernelName'> = { prepare: () => '', restore: () => '' }

/** Runs in its own namespace, so that nothing of it shows in the user's. */
const PYTHON_PREPARE = `
import json, os, sys
p = json.loads(arg)
if p.get('cwd'):
    try: os.chdir(p['cwd'])
    except OSError: pass
def assign(values, saved=None):
    for key, value in (values or {}).items():
        try:
            if saved is not None: saved[key] = os.environ.get(key)
            os.environ[key] = value
        except (ValueError, UnicodeError): pass
assign(p.get('env'))
if p.get('runEnv'):
    saved = {}
    assign(p['runEnv'], saved)
    get_ipython()._e2b_saved_env = saved
def attempt(name, act):
    module = sys.modules.get(name)
    if module is not None:
        try: act(module)
        except Exception: pass
if p.get('reseed'):
    attempt('random', lambda m: m.seed(os.urandom(64)))
    attempt('numpy.random', lambda m: m.seed([int.from_bytes(os.urandom(4), 'little') for _ in range(16)]))
    attempt('ssl', lambda m: m.RAND_add(os.urandom(64), 64.0))
    attempt('torch', lambda m: m.seed())
    attempt('tempfile', lambda m: setattr(m, '_name_sequence', None))
`

const PYTHON_RESTORE = `
import os
for key, value in (get_ipython().__dict__.pop('_e2b_saved_env', None) or {}).items():
    if value is None: os.environ.pop(key, None)
    else: os.environ[key] = value
`

function python(script: string, argument: unknown): string {
  // A JSON string is a Python string literal, too.
  const names = `{'get_ipython': get_ipython, 'arg': ${JSON.stringify(JSON.stringify(argument))}}`
  return `exec(${JSON.stringify(script)}, ${names})`
}

/** Our own kernel does these itself; another one under its name is left alone. */
const JAVASCRIPT_KERNEL = 'globalThis[Symbol.for("e2b.kernel")]'

const scripted = (kernelName: string): Language => ({
  kernelName,
  prepare: (preparation) => `${JAVASCRIPT_KERNEL}?.prepare(${JSON.stringify(preparation)})`,
  restore: () => `${JAVASCRIPT_KERNEL}?.restore()`,
})

const shellQuote = (value: string): string => `'${value.replaceAll("'", "'\\''")}'`
const rQuote = (value: string): string => JSON.stringify(value)
const pairs = (p: Preparation): [string, string][] => Object.entries({ ...p.env, ...p.runEnv })
const isShellName = (name: string): boolean => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name)

/** Puts each variable back to its sandbox-wide value, or removes it where it has none. */
function restoreWith(
  assign: (name: string, value: string) => string,
  remove: (name: string) => string,
): Language['restore'] {
  return (names, global) =>
    names.map((name) => (global[name] === undefined ? remove(name) : assign(name, global[name]))).join('\n')
}

const assignShell = (name: string, value: string): string =>
  isShellName(name) ? `export ${name}=${shellQuote(value)}` : ':'
const assignR = (name: string, value: string): string =>
  `do.call(Sys.setenv, setNames(list(${rQuote(value)}), ${rQuote(name)}))`
const assignJava = (name: string, value: string): string =>
  `System.setProperty(${JSON.stringify(name)}, ${JSON.stringify(value)});`

const languages: Readonly<Record<string, Language>> = {
  python: {
    kernelName: 'python3',
    // Frozen: a later collection would write to every object there is, and so make each clone's memory its own.
    warm: "get_ipython().display_formatter.format(1)\n__import__('gc').freeze()",
    prepare: (preparation) => python(PYTHON_PREPARE, preparation),
    restore: () => python(PYTHON_RESTORE, {}),
  },
  javascript: scripted('javascript'),
  typescript: scripted('typescript'),
  bash: {
    kernelName: 'bash',
    prepare: (p) =>
      [
        ...(p.cwd === undefined ? [] : [`cd ${shellQuote(p.cwd)}`]),
        ...pairs(p).map(([name, value]) => assignShell(name, value)),
        ...(p.reseed ? ['RANDOM=$(od -An -N2 -tu2 /dev/urandom)'] : []),
      ].join('\n'),
    restore: restoreWith(assignShell, (name) => (isShellName(name) ? `unset ${name}` : ':')),
  },
  r: {
    kernelName: 'ir',
    prepare: (p) =>
      [
        ...(p.cwd === undefined ? [] : [`try(setwd(${rQuote(p.cwd)}), silent = TRUE)`]),
        ...pairs(p).map(([name, value]) => assignR(name, value)),
        ...(p.reseed
          ? ['local({ if (exists(".Random.seed", globalenv())) rm(".Random.seed", envir = globalenv()) })']
          : []),
      ].join('\n'),
    restore: restoreWith(assignR, (name) => `Sys.unsetenv(${rQuote(name)})`),
  },
  java: {
    kernelName: 'java',
    prepare: (p) =>
      [
        ...(p.cwd === undefined ? [] : [assignJava('user.dir', p.cwd)]),
        ...pairs(p).map(([name, value]) => assignJava(name, value)),
      ].join('\n'),
    restore: restoreWith(assignJava, (name) => `System.clearProperty(${JSON.stringify(name)});`),
  },
}
