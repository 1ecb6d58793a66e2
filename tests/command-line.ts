import { type ParseArgsConfig, parseArgs } from 'node:util'

/** Says on standard error what is wrong, and how the command is used; ends with status 2. */
export function wrongUse(why: string, usage: string): never {
  console.error(`${why}\n${usage}`)
  process.exit(2)
}

/** Options of a command of the tests. Wrong ones end the process with status 2, `--help` with the usage and 0. */
export function readArguments<const T extends ParseArgsConfig>(
  usage: string,
  config: T,
): ReturnType<typeof parseArgs<T>> {
  if (process.argv.includes('--help')) {
    console.log(usage)
    process.exit(0)
  }
  try {
    return parseArgs(config)
  } catch (error) {
    return wrongUse((error as Error).message, usage)
  }
}

/** @param name of the option, without dashes */
export function wholeNumber(text: string, name: string, min: number, usage: string): number {
  const number = Number(text)
  if (text.trim() !== '' && Number.isInteger(number) && number >= min) return number
  return wrongUse(`--${name} must be a whole number of at least ${min}, not '${text}'`, usage)
}
