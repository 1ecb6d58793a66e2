import { HostError } from '../host-error.ts'
import { CommandError, run } from '../linux/process.ts'

/**
 * Refuses a range in which another instance runs: taking its routes over would cut off its sandboxes.
 * @param address this machine's address in the range
 * @throws HostError exists
 */
export async function assertRangeFree(instance: string, address: string): Promise<void> {
  const { stdout } = await run('nft', ['list', 'tables', 'inet'])
  const others = [...stdout.matchAll(/^table inet ([a-z0-9]+)$/gm)].map((match) => match[1] ?? '')
  for (const other of others.filter((name) => name !== instance)) {
    if (!(await admittedIn(other)).includes(`ip daddr ${address} `)) continue
    throw new HostError(
      'exists',
      `instance '${other}' uses the address range of ${address} on this machine: give this one another range, ` +
        `or remove what is left of that one`,
    )
  }
}

/** The rules of another instance for what its slots send to this machine; empty for a table that is no instance's. */
async function admittedIn(table: string): Promise<string> {
  try {
    return (await run('nft', ['list', 'chain', 'inet', table, 'to_host'])).stdout
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('No such file or directory')) return ''
    throw error
  }
}
