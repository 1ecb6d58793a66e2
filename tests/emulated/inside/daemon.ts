/**
 * A daemon of its own for the cases that kill one: opens the host, then starts a sandbox, or pauses the one that is
 * named. Says `open` and then `begun` on its standard output.
 */
import { HostUnderTest } from './host-under-test.ts'

const [engine, monitor, action, sandboxId] = process.argv.slice(2) as [string, string, string, string]
const host = new HostUnderTest(engine, monitor, '/run/daemon.log')
await host.open()
process.stdout.write('open\n')
const begun = action === 'create' ? host.start(undefined, { sandboxId }) : host.client.pause({ sandboxId })
process.stdout.write('begun\n')
await begun
process.stdout.write('done\n')
setInterval(() => {}, 1_000)
