#!/usr/bin/env node
// The first thing that runs on a fresh machine: plain JavaScript for Node 20 and newer, no dependency.
// It installs the locked dependencies when they are missing or stale (they bring Node 24), then hands over.
import { spawn, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const major = Number(process.versions.node.split('.')[0])
if (major < 20) {
  console.error(`Node ${process.versions.node} is too old: install Node 20 or newer, then run this again.`)
  process.exit(1)
}
if (process.platform !== 'linux') {
  console.error(`Sandboxes need Linux, this is ${process.platform}: run this on a Debian or Ubuntu machine.`)
  process.exit(1)
}

/** Installs from the lock file once per version of it; the stamp lies inside what it describes. */
function installDependencies() {
  const stampPath = join(root, 'node_modules', '.installed')
  const wanted = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex')
  if (existsSync(stampPath) && readFileSync(stampPath, 'utf8') === wanted) return
  const began = Date.now()
  process.stderr.write('Installing the locked dependencies (npm ci) …\n')
  const result = spawnSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error'], {
    cwd: root,
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  if (result.error) {
    console.error(`npm cannot be run (${result.error.message}): install it beside Node, then run this again.`)
    process.exit(1)
  }
  if (result.status !== 0) {
    console.error(
      'npm ci failed (its output is above): check the network and registry settings, then run this again.',
    )
    process.exit(1)
  }
  writeFileSync(stampPath, wanted)
  process.stderr.write(`Dependencies installed in ${((Date.now() - began) / 1000).toFixed(0)} s\n`)
}

installDependencies()
const [command, ...rest] = process.argv.slice(2)
const entries = {
  test: 'tests/run.ts',
  'test:compat': 'tests/compat/run.ts',
  'test:chaos': 'tests/chaos/run.ts',
  'test:microvm': 'tests/emulated/run.ts',
  bench: 'bench/run.ts',
}
const main = join(root, entries[command] ?? 'packages/server/src/main.ts')
if (entries[command]) process.argv = [...process.argv.slice(0, 2), ...rest]
if (major >= 24) {
  await import(main)
} else {
  // npm put the old node first on the PATH before the lock file's one existed.
  const node = join(root, 'node_modules', '.bin', 'node')
  const child = spawn(node, [main, ...process.argv.slice(2)], { stdio: 'inherit' })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('exit', (code, signal) => process.exit(signal ? 1 : (code ?? 1)))
}
