import { readFileSync } from 'node:fs'

/** A program that the agent keeps running. */
export interface ServiceDefinition {
  /** `[a-z0-9-]`, unique. */
  readonly name: string
  /** Program and arguments; a single string in the file is run by `/bin/sh -c`. */
  readonly command: readonly string[]
  /** Name of the user; the agent's default user when absent. */
  readonly user?: string
  readonly workdir?: string
  readonly env: Readonly<Record<string, string>>
  /** When this service ends or restarts, the named one's end restarts it too. */
  readonly partOf?: string
  /** False = started once. */
  readonly restart: boolean
}

/**
 * Reads `{"services": [{"name", "cmd", "user"?, "workdir"?, "env"?, "partOf"?, "restart"?}]}`. A missing file is
 * an empty list.
 *
 * @throws Error that names the file and the entry that is wrong
 */
export function readServiceFile(file: string): ServiceDefinition[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch {
    return []
  }
  const parsed: unknown = JSON.parse(text)
  const list = isRecord(parsed) ? parsed.services : undefined
  if (!Array.isArray(list)) throw new Error(`${file}: "services" must be a list`)
  return list.map((entry, index) => definition(entry, `${file}: services[${index}]`))
}

function definition(entry: unknown, where: string): ServiceDefinition {
  if (!isRecord(entry)) throw new Error(`${where} must be an object`)
  const { name, cmd, user, workdir, env, partOf, restart } = entry
  if (typeof name !== 'string' || !/^[a-z0-9-]+$/.test(name)) throw new Error(`${where}: name is not valid`)
  return {
    name,
    command: commandOf(cmd, where),
    env: isStringMap(env) ? env : {},
    restart: restart !== false && restart !== 'never',
    ...(typeof user === 'string' ? { user } : {}),
    ...(typeof workdir === 'string' ? { workdir } : {}),
    ...(typeof partOf === 'string' ? { partOf } : {}),
  }
}

function commandOf(cmd: unknown, where: string): string[] {
  if (typeof cmd === 'string' && cmd) return ['/bin/sh', '-c', cmd]
  const words = Array.isArray(cmd) ? cmd.filter((word): word is string => typeof word === 'string') : []
  if (words.length === 0) throw new Error(`${where}: cmd must be a string or a list of strings`)
  return words
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

const isStringMap = (value: unknown): value is Record<string, string> =>
  isRecord(value) && Object.values(value).every((item) => typeof item === 'string')
