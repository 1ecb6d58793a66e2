/**
 * The import rule: everything may import `contract`, `api` may import `store`, `server` may import everything,
 * kernels import `contract`,
 * nobody else imports another room. Prints each offence and exits 1.
 */
import { globSync, readFileSync } from 'node:fs'
import { join, relative, resolve } from 'node:path'

const root = resolve(import.meta.dirname, '..', '..')
const allowed: Record<string, readonly string[]> = {
  contract: [],
  store: ['contract'],
  api: ['contract', 'store'],
  host: ['contract'],
  edge: ['contract'],
  envd: ['contract'],
  interpreter: ['contract'],
  kernels: ['contract'],
  server: ['contract', 'store', 'api', 'host', 'edge', 'envd', 'interpreter'],
}

const offences: string[] = []
for (const file of globSync(['packages/*/src/**/*.ts', 'kernels/*/src/**/*.ts'], { cwd: root })) {
  const [top, name] = file.split('/')
  const room = top === 'packages' ? name! : top!
  const source = readFileSync(join(root, file), 'utf8')
  for (const match of source.matchAll(/(?:from|import\()\s*'([^']+)'/g)) {
    const target = match[1]!
    const named = /^@sandbox\/([a-z-]+)/.exec(target)?.[1]
    const reached = target.startsWith('.')
      ? /^packages\/([a-z-]+)\//.exec(relative(root, resolve(root, file, '..', target)))?.[1]
      : named
    if (reached && reached !== room && !allowed[room]?.includes(reached)) {
      offences.push(`${file}: ${room} must not import ${reached} (${target})`)
    }
  }
}
if (offences.length > 0) {
  console.error(offences.join('\n'))
  process.exit(1)
}
console.log('Import rule holds.')
