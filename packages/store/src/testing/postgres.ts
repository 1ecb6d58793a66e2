import { execFile, spawn } from 'node:child_process'
import { chownSync, existsSync, globSync, mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import pg from 'pg'

const run = promisify(execFile)
const STOP_TIMEOUT_MS = 5_000

/** A PostgreSQL of one's own, thrown away at the end. */
export interface TestPostgres {
  /** Makes an empty database and answers its URL. */
  createDatabase(): Promise<string>
  stop(): Promise<void>
}

async function binaries(): Promise<string> {
  const find = () =>
    globSync('/usr/lib/postgresql/*/bin')
      .sort()
      .findLast((dir) => existsSync(join(dir, 'initdb')))
  const found = find()
  if (found) return found
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  await run('apt-get', ['install', '-y', '--no-install-recommends', 'postgresql'], { env }).catch(
    async () => {
      await run('apt-get', ['update'], { env })
      await run('apt-get', ['install', '-y', '--no-install-recommends', 'postgresql'], { env })
    },
  )
  const installed = find()
  if (!installed) throw new Error('PostgreSQL was installed but /usr/lib/postgresql/*/bin/initdb is missing')
  return installed
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  await new Promise((resolve) => server.close(resolve))
  if (typeof address !== 'object' || !address) throw new Error('a listening TCP server has an address')
  return address.port
}

async function idOf(flag: '-u' | '-g'): Promise<number> {
  return Number((await run('id', [flag, 'postgres'])).stdout)
}

/** Starts Debian's PostgreSQL in a temporary directory on a loopback port, installing the package when missing. */
export async function startPostgres(): Promise<TestPostgres> {
  const bin = await binaries()
  const isRoot = process.getuid?.() === 0
  // PostgreSQL refuses to run as root.
  const identity = isRoot ? { uid: await idOf('-u'), gid: await idOf('-g') } : {}
  const dir = mkdtempSync(join(tmpdir(), 'store-postgres-'))
  if (identity.uid !== undefined) chownSync(dir, identity.uid, identity.gid)
  const data = join(dir, 'data')
  await run(join(bin, 'initdb'), ['-D', data, '-U', 'postgres', '-A', 'trust', '--no-sync', '-E', 'UTF8'], {
    ...identity,
    cwd: dir,
  })
  const port = await freePort()
  const settings = [
    `port=${port}`,
    'listen_addresses=127.0.0.1',
    `unix_socket_directories=${dir}`,
    'fsync=off',
  ]
  const args = ['-D', data, ...settings.flatMap((setting) => ['-c', setting])]
  const server = spawn(join(bin, 'postgres'), args, {
    ...identity,
    cwd: dir,
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const exited = new Promise<void>((resolve) => server.once('exit', () => resolve()))
  await new Promise<void>((resolve, reject) => {
    let log = ''
    server.stderr.on('data', (chunk) => {
      log = (log + chunk).slice(-10_000)
      if (log.includes('ready to accept connections')) resolve()
    })
    server.once('exit', (code) => reject(new Error(`postgres ended with ${code}: ${log}`)))
  })

  const adminUrl = `postgres://postgres@127.0.0.1:${port}/postgres`
  let databases = 0
  return {
    async createDatabase() {
      databases += 1
      const client = new pg.Client({ connectionString: adminUrl })
      await client.connect()
      await client.query(`create database test${databases}`)
      await client.end()
      return `postgres://postgres@127.0.0.1:${port}/test${databases}`
    },
    async stop() {
      // At once, without a checkpoint: nobody reads it again.
      server.kill('SIGQUIT')
      const timer = setTimeout(() => server.kill('SIGKILL'), STOP_TIMEOUT_MS)
      await exited
      clearTimeout(timer)
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
