/**
 * A dropped packet stays dropped whatever another table accepts, and Docker sets the policy of the `ip filter`
 * forward chain to drop. Its `DOCKER-USER` chain is the place where others admit their traffic.
 */
import { CommandError, run } from '../linux/process.ts'

const chain = ['ip', 'filter', 'DOCKER-USER']

/**
 * Admits forwarding from and to the slots of `instance` where Docker's chain exists; idempotent. What slots may
 * reach is still for the instance's own table. Docker started later needs another call. Answers whether it exists.
 */
export async function admitForwarding(instance: string): Promise<boolean> {
  const rules = await userChain()
  if (rules === undefined) return false
  // Plain matches only: the iptables tools refuse a table with expressions that they cannot show.
  const missing = admissions(instance).filter((match) => !rules.includes(`${match} accept`))
  const stdin = missing.map((match) => `insert rule ${chain.join(' ')} ${match} accept\n`).join('')
  if (missing.length > 0) await run('nft', ['-f', '-'], { stdin })
  return true
}

/** Takes back what `admitForwarding` added. Idempotent. */
export async function withdrawForwarding(instance: string): Promise<void> {
  const wanted = admissions(instance)
  const handles = ((await userChain()) ?? '')
    .split('\n')
    .filter((rule) => wanted.some((match) => rule.trim().startsWith(`${match} accept`)))
    .map((rule) => /# handle (\d+)$/.exec(rule)?.[1])
  const stdin = handles.map((handle) => `delete rule ${chain.join(' ')} handle ${handle}\n`).join('')
  if (handles.length > 0) await run('nft', ['-f', '-'], { stdin })
}

function admissions(instance: string): string[] {
  return [`iifname "${instance}*"`, `oifname "${instance}*"`]
}

async function userChain(): Promise<string | undefined> {
  try {
    return (await run('nft', ['--handle', 'list', 'chain', ...chain])).stdout
  } catch (error) {
    if (error instanceof CommandError && error.stderr.includes('No such file or directory')) return undefined
    throw error
  }
}
