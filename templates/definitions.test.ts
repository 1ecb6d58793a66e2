import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { trustCertificates } from './base/trust.ts'
import { codeInterpreterTemplate } from './code-interpreter/template.ts'
import { files } from './dsl/template.ts'

const certificate = (text: string): string =>
  `-----BEGIN CERTIFICATE-----\n${text}\n-----END CERTIFICATE-----\n`

test('files are written with their exact content, to plain paths only', () => {
  const [command, user] = files({ '/etc/e2b/a.json': "it's\n" }).args
  expect(user).toBe('root')
  expect(command).toContain(Buffer.from("it's\n").toString('base64'))
  expect(() => files({ "/etc/a'; reboot": '' })).toThrow(RangeError)
  expect(() => files({ '/etc/large': 'x'.repeat(100_000) })).toThrow(RangeError)
})

test('the code interpreter pins every Python package and ends as its user', () => {
  const { steps, from } = codeInterpreterTemplate()
  expect(from).toEqual({ template: 'base' })
  expect(steps.findLast((step) => step.type === 'USER')?.args).toEqual(['user'])
  const [, encoded] =
    /echo (\S+) .*requirements\.txt/.exec(
      steps.find((step) => step.args[0]?.includes("> '/opt/e2b/requirements.txt'"))?.args[0] ?? '',
    ) ?? []
  const lines = Buffer.from(encoded ?? '', 'base64')
    .toString()
    .split('\n')
    .filter((line) => /^\w/.test(line))
  expect(lines.length).toBeGreaterThan(10)
  expect(lines.filter((line) => !/^[\w-]+==[\w.]+$/.test(line))).toEqual([])
})

test('the code interpreter has a kernelspec for each of its languages', () => {
  const commands = codeInterpreterTemplate().steps.map((step) => step.args[0] ?? '')
  for (const name of ['javascript', 'typescript', 'bash', 'r', 'java']) {
    const path = `/usr/local/share/jupyter/kernels/${name}/kernel.json`
    const encoded = commands.map((command) => new RegExp(`echo (\\S+) [^&]*> '${path}'`).exec(command)?.[1])
    const spec: { argv: string[] } = JSON.parse(
      Buffer.from(encoded.find((text) => text !== undefined) ?? '', 'base64').toString(),
    )
    expect(spec.argv).toContain('{connection_file}')
  }
})

test('only certificates that the system lacks are added', async () => {
  const root = mkdtempSync(join(tmpdir(), 'trust-'))
  mkdirSync(join(root, 'etc/ssl/certs'), { recursive: true })
  writeFileSync(join(root, 'etc/ssl/certs/ca-certificates.crt'), certificate('known'))
  const bundle = join(root, 'bundle.pem')
  writeFileSync(bundle, `# host\n${certificate('known')}${certificate('private')}`)
  expect(await trustCertificates(root, bundle)).toBe(1)
  expect(readdirSync(join(root, 'usr/local/share/ca-certificates'))).toEqual(['host-1.crt'])
  rmSync(root, { recursive: true })
})
