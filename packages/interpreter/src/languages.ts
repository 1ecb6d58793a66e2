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
  restore(runEnv: Readonly<Record<string, string>>): string
}

export const DEFAULT_LANGUAGE = 'python'

/** Lower-cased, trimmed and without abbreviation; the default when none is given. */
export function normalizeLanguage(language: string | null | undefined): string {
  const name = language?.toLowerCase().trim() || DEFAULT_LANGUAGE
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
        except (OSError, ValueError): pass
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
# Generators that somebody keeps. One of numpy that was given a seed of the user's is his to repeat: a seed that
# the system gave has 128 bits. (A generator of \`random\` does not tell.)
def is_seeded_by_system(bits):
    entropy = getattr(getattr(bits, '_seed_seq', None), 'entropy', None)
    return isinstance(entropy, int) and entropy.bit_length() > 64
def renew(kept, random, numpy):
    kind = type(kept)
    if random and issubclass(kind, random.Random) and not issubclass(kind, random.SystemRandom):
        kept.seed(os.urandom(64))
    elif numpy and issubclass(kind, numpy.RandomState):
        if is_seeded_by_system(kept._bit_generator): kept.seed()
    elif numpy and issubclass(kind, numpy.BitGenerator) and is_seeded_by_system(kept):
        kept.__init__()
def reseed_kept(gc):
    random, numpy = sys.modules.get('random'), sys.modules.get('numpy.random')
    for kept in gc.get_objects():
        try: renew(kept, random, numpy)
        except Exception: pass
if p.get('reseed'):
    attempt('random', lambda m: m.seed(os.urandom(64)))
    attempt('numpy.random', lambda m: m.seed([int.from_bytes(os.urandom(4), 'little') for _ in range(16)]))
    attempt('ssl', lambda m: m.RAND_add(os.urandom(64), 64.0))
    attempt('torch', lambda m: m.seed())
    attempt('tempfile', lambda m: setattr(m, '_name_sequence', None))
    attempt('gc', reseed_kept)
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
  // By no name that the user may have given to something else.
  return `__import__('builtins').exec(${JSON.stringify(script)}, ${names})`
}

/** Our own kernel does these itself; another one under its name is left alone. */
const JAVASCRIPT_KERNEL = 'globalThis[Symbol.for("e2b.kernel")]'

const scripted = (kernelName: string): Language => ({
  kernelName,
  prepare: (preparation) => `${JAVASCRIPT_KERNEL}?.prepare(${JSON.stringify(preparation)})`,
  restore: () => `${JAVASCRIPT_KERNEL}?.restore()`,
})

const shellQuote = (value: string): string => `'${value.replaceAll("'", "'\\''")}'`
/** Without what no variable of a process can be: other names, NUL, half a character. */
const shellNames = (variables: Record<string, string> | undefined): [string, string][] =>
  Object.entries(variables ?? {})
    .filter(([name]) => /^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
    .map(([name, value]) => [name, value.replaceAll('\0', '').toWellFormed()])
const assignShell = ([name, value]: [string, string]): string => `export ${name}=${shellQuote(value)}`
/** Keeps whether there was a value, which, and whether programs saw it. */
const saveShell = ([name]: [string, string]): string =>
  `__e2b_kind_${name}=; if [[ -v ${name} ]]; then` +
  ` __e2b_value_${name}=$${name}; __e2b_kind_${name}=\${${name}@a}; fi`
/** A shell that follows the one in which a variable was kept has nothing to take back. */
const restoreShell = (name: string): string =>
  `if [[ -v __e2b_value_${name} ]]; then ${name}=$__e2b_value_${name};` +
  ` [[ $__e2b_kind_${name} == *x* ]] || export -n ${name};` +
  ` elif [[ -v __e2b_kind_${name} ]]; then unset ${name}; fi;` +
  ` unset __e2b_value_${name} __e2b_kind_${name}`

/** In the shell it is a comment: our own kernel keeps it for the shell that follows when this one ends. */
const rememberShell = (cwd: string | undefined, env: Record<string, string> | undefined): string[] =>
  cwd === undefined && env === undefined
    ? []
    : [`#e2b.prepare ${JSON.stringify({ cwd, env: Object.fromEntries(shellNames(env)) })}`]

/** R's texts hold neither NUL nor half a character. */
const rQuote = (value: string): string => JSON.stringify(value.replaceAll('\0', '').toWellFormed())
const assignR = ([name, value]: [string, string]): string =>
  `try(do.call(Sys.setenv, setNames(list(${rQuote(value)}), ${rQuote(name)})), silent = TRUE)`
/** The generator's whole state: a seed alone is 32 bits, and R would make it of time and process id. */
const RESEED_R =
  'local({ f <- file("/dev/urandom", "rb"); on.exit(close(f)); set.seed(readBin(f, "integer", 1, 2, FALSE));' +
  ' s <- get(".Random.seed", globalenv()); n <- length(s);' +
  ' if (n > 3) { x <- readBin(f, "integer", n - 2); x[is.na(x)] <- 1L; s[3:n] <- x };' +
  ' assign(".Random.seed", s, globalenv()) })'
const RESTORE_R =
  'local({ s <- getOption("e2b.saved"); options(e2b.saved = NULL); for (n in names(s))' +
  ' try(if (is.na(s[[n]])) Sys.unsetenv(n) else do.call(Sys.setenv, setNames(list(s[[n]]), n)), silent = TRUE) })'

function prepareR({ cwd, env, runEnv, reseed }: Preparation): string {
  const names = Object.keys(runEnv ?? {}).map(rQuote)
  return [
    ...(cwd === undefined ? [] : [`try(setwd(${rQuote(cwd)}), silent = TRUE)`]),
    ...Object.entries(env ?? {}).map(assignR),
    ...(names.length === 0
      ? []
      : [`options(e2b.saved = Sys.getenv(c(${names.join(', ')}), unset = NA, names = TRUE))`]),
    ...Object.entries(runEnv ?? {}).map(assignR),
    ...(reseed ? [RESEED_R] : []),
  ].join('\n')
}

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
    prepare: ({ cwd, env, runEnv, reseed }) =>
      [
        ...rememberShell(cwd, env),
        ...(cwd === undefined ? [] : [`cd ${shellQuote(cwd)}`]),
        ...shellNames(env).map(assignShell),
        ...shellNames(runEnv).map(saveShell),
        ...shellNames(runEnv).map(assignShell),
        ...(reseed ? ['RANDOM=$(od -An -N4 -tu4 /dev/urandom); HOSTNAME=$(</proc/sys/kernel/hostname)'] : []),
      ].join('\n'),
    restore: (runEnv) =>
      shellNames(runEnv)
        .map(([name]) => restoreShell(name))
        .join('\n'),
  },
  r: { kernelName: 'r', prepare: prepareR, restore: () => RESTORE_R },
  java: {
    kernelName: 'java',
    // Comments to any other kernel of this name; ours does not compile them.
    prepare: (preparation) => `//e2b.prepare ${JSON.stringify(preparation)}`,
    restore: () => '//e2b.restore',
  },
}
