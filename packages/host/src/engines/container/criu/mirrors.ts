import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'

const aptDir = '/etc/apt'
const publicMirror = 'http://deb.debian.org/debian'

/** Debian mirrors that apt uses on this machine, in its order, then the public one. Without a trailing slash. */
export async function aptMirrors(dir: string = aptDir): Promise<string[]> {
  const parts = await readdir(join(dir, 'sources.list.d')).catch(() => [])
  const files = [
    join(dir, 'sources.list'),
    ...parts
      .filter((name) => /\.(list|sources)$/.test(name))
      .sort()
      .map((name) => join(dir, 'sources.list.d', name)),
  ]
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8').catch(() => '')))
  const mirrors = texts.flatMap(mirrorsIn).filter(isDebianArchive)
  return [...new Set([...mirrors, publicMirror])]
}

/** Both forms: `deb [options] URI suite ...` lines and deb822's `URIs:` fields. */
export function mirrorsIn(text: string): string[] {
  const lines = text.split('\n')
  const oneLine = lines.map((line) => /^\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)/.exec(line)?.[1])
  const fields = lines.flatMap((line) => /^URIs:\s*(.+)$/i.exec(line)?.[1]?.trim().split(/\s+/) ?? [])
  return [...oneLine, ...fields].flatMap((uri) => (uri ? [uri.replace(/\/+$/, '')] : []))
}

/** Not the security archive and not some vendor's: only a full mirror has the source packages. */
function isDebianArchive(uri: string): boolean {
  return /^https?:\/\//.test(uri) && /\/debian$/.test(uri)
}
