import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { umount2 } from '../linux/mount.ts'
import { CLONE_NEWNET, createNamespaceAt, inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'

/** Docker's chain is made in a namespace of its own: in the machine's it would stop real traffic. */
const dir = mkdtempSync(join(tmpdir(), 'docker-'))
const netns = join(dir, 'net')
const module = join(import.meta.dirname, 'forward-admission.ts')

async function there(command: string, args: string[], stdin = ''): Promise<string> {
  return (await inNetworkNamespace(netns, () => run(command, args, { stdin }))).stdout
}

/** Calls the function in a process of its own, all of which lives in the namespace. */
function call(name: 'admitForwarding' | 'withdrawForwarding', instance: string): Promise<string> {
  const script = `import { ${name} } from '${module}'; console.log(await ${name}('${instance}'))`
  return there(process.execPath, ['--input-type=module', '-e', script])
}

const userChain = (): Promise<string> => there('nft', ['list', 'chain', 'ip', 'filter', 'DOCKER-USER'])

beforeAll(() => createNamespaceAt('net', CLONE_NEWNET, netns))
afterAll(() => {
  umount2(netns)
  rmSync(dir, { recursive: true })
})

test('without Docker nothing is added', async () => {
  expect((await call('admitForwarding', 'e2b')).trim()).toBe('false')
  expect(await there('nft', ['list', 'tables'])).toBe('')
  await call('withdrawForwarding', 'e2b')
})

test('each instance is admitted once, and withdrawn without touching what others put there', async () => {
  await there('nft', ['-f', '-'], 'table ip filter {\n chain DOCKER-USER {\n counter return\n }\n}\n')
  const before = await userChain()
  await call('admitForwarding', 'e2b')
  await call('admitForwarding', 'e2b')
  await call('admitForwarding', 'tst')
  expect((await userChain()).match(/ifname "e2b\*" accept/g)).toHaveLength(2)
  await call('withdrawForwarding', 'e2b')
  expect((await userChain()).match(/accept/g)).toHaveLength(2)
  await call('withdrawForwarding', 'tst')
  expect(await userChain()).toBe(before)
})
