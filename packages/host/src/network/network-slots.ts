import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { flushConntrack } from '../linux/conntrack.ts'
import {
  bindMount,
  MOUNT_ATTR_NODEV,
  MOUNT_ATTR_NOEXEC,
  MOUNT_ATTR_NOSUID,
  MOUNT_ATTR_RDONLY,
  MS_REC,
  MS_SHARED,
  mount,
  mountNew,
  unmountIfMounted,
} from '../linux/mount.ts'
import { mountTable } from '../linux/mount-table.ts'
import { CLONE_NEWNET, createNamespaceAt, inNetworkNamespace } from '../linux/namespace.ts'
import { run } from '../linux/process.ts'
import { tableExists } from '../linux/set-elements.ts'
import {
  assertNaming,
  gatewayAddress,
  gatewayMac,
  guestAddress,
  guestMac,
  hostInterface,
  machineAddress,
  netnsDir,
  netnsName,
  type SlotNaming,
  slotAddress,
  slotDir,
} from '../slots/slots.ts'
import { admitForwarding, withdrawForwarding } from './forward-admission.ts'
import { type Egress, type NetworkPolicy, openPolicy } from './policy.ts'
import { assertRangeFree } from './range-owner.ts'
import {
  addSlotElements,
  hostRuleset,
  internalRanges,
  removeSlotElements,
  type SlotElements,
  slotRuleset,
} from './ruleset.ts'
import { SlotPolicies } from './slot-policies.ts'

const forwardingSwitch = '/proc/sys/net/ipv4/ip_forward'
/** The switch belongs to the machine, so all instances share one record of what it was before the first of them. */
const forwardingRecord = '/run/sandbox-ip_forward.before'

export interface NetworkOptions extends SlotNaming {
  /** Port of the DNS forwarder on this machine's address towards the sandboxes. Default 10053. */
  dnsPort?: number
  /** Port of the egress proxy on the same address. Default 10054. */
  egressPort?: number
  /** Port of the events listener. Default 10,055. */
  eventsPort?: number
  /** CIDR ranges denied to every sandbox besides the private and reserved ones. */
  deniedRanges?: readonly string[]
  /** Connection mark of slot 0; slot n has n more. Default: 16 bits of the instance name's hash, then 16 zero. */
  markBase?: number
  /** Tracked connections one sandbox may have; new ones are dropped beyond. Default 4,096. */
  maxFlowsPerSlot?: number
  /** Bandwidth of one slot in each direction, Mbit/s. Default 0: as much as there is. */
  mbitPerSlot?: number
}

/**
 * Network namespaces, links and firewall of the slots of one instance. `prepare` and `destroy` start processes
 * and belong off the create path; `setPolicy` and `forgetFlows` are synchronous and take microseconds.
 */
export class NetworkSlots {
  readonly #options: NetworkOptions
  readonly #table: string
  readonly #linkName: RegExp
  readonly #policies: SlotPolicies

  constructor(options: NetworkOptions) {
    assertNaming(options)
    this.#options = options
    this.#table = options.instance
    this.#policies = new SlotPolicies(options, this.forbiddenRanges)
    this.#linkName = new RegExp(`^${options.instance}(\\d+)h$`)
  }

  /** Address and port the DNS forwarder must listen on. */
  get dnsEndpoint(): { address: string; port: number } {
    return { address: machineAddress(this.#options), port: this.#options.dnsPort ?? 10_053 }
  }

  /** Address and port the egress proxy must listen on. */
  get egressEndpoint(): { address: string; port: number } {
    return { address: machineAddress(this.#options), port: this.#options.egressPort ?? 10_054 }
  }

  /** Address and port the events listener must listen on. */
  get eventsEndpoint(): { address: string; port: number } {
    return { address: machineAddress(this.#options), port: this.#options.eventsPort ?? 10_055 }
  }

  /**
   * Rules, forwarding and this machine's own address. Idempotent; running slots keep their flows and policies, also
   * when somebody else removed the table meanwhile.
   * Throws HostError `exists` when another instance runs in the same address range.
   * @param policies those of slots that an earlier process left running: they are known from here on
   */
  async start(policies: Iterable<readonly [index: number, policy: NetworkPolicy]> = []): Promise<void> {
    await assertRangeFree(this.#table, this.dnsEndpoint.address)
    this.#policies.assume(policies)
    this.#shareNetnsDir()
    mkdirSync(this.#options.runDir, { recursive: true })
    const { address, port } = this.dnsEndpoint
    const ruleset = hostRuleset({
      table: this.#table,
      machineAddress: address,
      dnsPort: port,
      egressPort: this.egressEndpoint.port,
      eventsPort: this.eventsEndpoint.port,
      forbidden: this.forbiddenRanges,
      maxFlowsPerSlot: this.#options.maxFlowsPerSlot ?? 4_096,
      mbitPerSlot: this.#options.mbitPerSlot ?? 0,
    })
    // One transaction: no moment in which the rules stand and a running slot is not under them. Once more when a
    // policy was set while it was on its way.
    let version: number
    do {
      version = this.#policies.version
      await run('nft', ['-f', '-'], { stdin: ruleset + this.#existingElements() })
    } while (this.#policies.version !== version)
    await run('ip', ['address', 'replace', `${address}/32`, 'dev', 'lo', 'scope', 'host'])
    await admitForwarding(this.#options.instance)
    this.#enableForwarding()
  }

  /** False when somebody removed the table: guests are then without rules until `start` is called. Takes 0.1 ms. */
  rulesPresent(): boolean {
    return tableExists(this.#table)
  }

  /** Makes everything a slot needs from the network. Idempotent: what is left of an earlier slot is replaced. */
  async prepare(index: number): Promise<void> {
    const link = hostInterface(this.#options, index)
    const address = slotAddress(this.#options, index)
    await this.#removeObjects(index)
    await run('nft', ['-f', '-'], { stdin: addSlotElements(this.#elements(index)) })
    await this.replacePolicy(index, openPolicy)
    const netns = this.netnsPath(index)
    createNamespaceAt('net', CLONE_NEWNET, netns)
    inNetworkNamespace(netns, () => this.#setNamespaceSwitches())
    const name = netnsName(this.#options, index)
    await run('ip', ['-batch', '-'], {
      stdin: `link add ${link} address ${gatewayMac} type veth peer name eth0 address ${guestMac} netns ${name}
link set ${link} addrgenmode none
link set ${link} up
neigh replace ${address} lladdr ${guestMac} dev ${link} nud permanent
route replace ${address}/32 dev ${link} src ${machineAddress(this.#options)}
`,
    })
    // A child inherits the namespace of the thread at the moment it is started.
    await inNetworkNamespace(netns, () =>
      run('ip', ['-batch', '-'], {
        stdin: `link set lo up
address add ${guestAddress}/30 dev eth0
link set eth0 up
neigh replace ${gatewayAddress} lladdr ${gatewayMac} dev eth0 nud permanent
route add default via ${gatewayAddress} dev eth0
`,
      }),
    )
    await inNetworkNamespace(netns, () => run('nft', ['-f', '-'], { stdin: slotRuleset(address) }))
    this.#mountSysfs(index)
  }

  /** Removes a slot's kernel objects, whatever of them exists. */
  async destroy(index: number): Promise<void> {
    await this.#removeObjects(index)
    // Last: while the link exists its rules must.
    await this.replacePolicy(index, openPolicy)
    await run('nft', ['-f', '-'], { stdin: removeSlotElements(this.#elements(index)) })
  }

  /** Destroys every slot of this instance found in the kernel that is not in `known`. Answers which. */
  async sweep(known: ReadonlySet<number>): Promise<number[]> {
    const stray = (await this.list()).filter((index) => !known.has(index))
    for (const index of stray) await this.destroy(index)
    return stray
  }

  /** Indexes of all slots of which the kernel has anything: a namespace, a link, a mount or a rule element. */
  async list(): Promise<number[]> {
    const { instance, runDir } = this.#options
    const found = new Set<number>()
    const note = (text: string, pattern: RegExp): void => {
      const index = pattern.exec(text)?.[1]
      if (index !== undefined) found.add(Number(index))
    }
    if (existsSync(netnsDir))
      for (const name of readdirSync(netnsDir)) note(name, new RegExp(`^${instance}-(\\d+)$`))
    for (const name of readdirSync('/sys/class/net')) note(name, this.#linkName)
    for (const name of await this.#elementsOf('slots')) note(name, this.#linkName)
    for (const { target } of mountTable()) {
      if (target.startsWith(`${runDir}/slots/`)) note(target.slice(runDir.length), /^\/slots\/(\d+)\/sys$/)
    }
    return [...found].sort((a, b) => a - b)
  }

  /**
   * Sets what a slot with the open policy may reach, before its occupant runs; costs nothing for the open policy.
   * Throws SystemError.
   * @param policy valid, as `parseNetworkPolicy` answers it
   */
  setPolicy(index: number, policy: NetworkPolicy): void {
    this.#policies.set(index, policy)
  }

  /** Replaces the policy of any slot; new connections are under it before it resolves. Throws SystemError. */
  replacePolicy(index: number, policy: NetworkPolicy): Promise<void> {
    return this.#policies.replace(index, policy)
  }

  /** What is decided for the slot of an address; undefined for one that is open. */
  egressOf(address: string): Egress | undefined {
    return this.#policies.egressOf(address)
  }

  /** Ranges that no policy opens, as CIDR blocks. */
  get forbiddenRanges(): readonly string[] {
    return [...internalRanges, this.#options.addressRange, ...(this.#options.deniedRanges ?? [])]
  }

  /**
   * Forgets every connection of a slot, on the host and inside its namespace. To be called when no process is left
   * in the slot: a late packet of an old peer then finds no flow that would lead it to the next sandbox.
   */
  forgetFlows(index: number): void {
    flushConntrack(this.#mark(index))
    inNetworkNamespace(this.netnsPath(index), () => flushConntrack())
  }

  /** Removes all slots, the table, the address, and gives the forwarding switch its former value. Idempotent. */
  async remove(): Promise<void> {
    await run('nft', ['add', 'table', 'inet', this.#table])
    if (await this.#tableIsComplete()) await this.sweep(new Set())
    await run('nft', ['delete', 'table', 'inet', this.#table])
    const { address } = this.dnsEndpoint
    const { stdout } = await run('ip', ['-json', 'address', 'show', 'dev', 'lo'])
    if (stdout.includes(`"${address}"`)) await run('ip', ['address', 'delete', `${address}/32`, 'dev', 'lo'])
    await withdrawForwarding(this.#options.instance)
    await this.#restoreForwarding()
  }

  netnsPath(index: number): string {
    return join(netnsDir, netnsName(this.#options, index))
  }

  sysfsPath(index: number): string {
    return join(slotDir(this.#options, index), 'sys')
  }

  async #removeObjects(index: number): Promise<void> {
    const link = hostInterface(this.#options, index)
    unmountIfMounted(this.sysfsPath(index))
    if (existsSync(`/sys/class/net/${link}`)) await run('ip', ['link', 'delete', link])
    const netns = this.netnsPath(index)
    if (!existsSync(netns)) return
    unmountIfMounted(netns)
    unlinkSync(netns)
  }

  #mark(index: number): number {
    return (this.#options.markBase ?? instanceMark(this.#options.instance)) + index
  }

  #elements(index: number): SlotElements {
    return {
      table: this.#table,
      interfaceName: hostInterface(this.#options, index),
      address: slotAddress(this.#options, index),
      mark: this.#mark(index),
    }
  }

  /** Elements of every slot whose link exists, and the policies this process has set. */
  #existingElements(): string {
    const links = readdirSync('/sys/class/net').flatMap((name) => this.#linkName.exec(name)?.[1] ?? [])
    return (
      links.map((index) => addSlotElements(this.#elements(Number(index)))).join('') + this.#policies.text()
    )
  }

  /**
   * The guest's root has no capability over this namespace, so low ports and ping are opened to everybody in it.
   * IPv6 goes off before the first link exists. So does multipath TCP, which Go's servers take when it is there and
   * which cannot be captured: they fall back to TCP.
   */
  #setNamespaceSwitches(): void {
    const switches: Record<string, string> = {
      'ipv4/ip_unprivileged_port_start': '0',
      'ipv4/ping_group_range': '0 2147483647',
    }
    if (existsSync('/proc/sys/net/ipv6')) {
      switches['ipv6/conf/all/disable_ipv6'] = '1'
      switches['ipv6/conf/default/disable_ipv6'] = '1'
    }
    if (existsSync('/proc/sys/net/mptcp')) switches['mptcp/enabled'] = '0'
    for (const [name, value] of Object.entries(switches)) writeFileSync(`/proc/sys/net/${name}`, value)
  }

  /** A sysfs shows the devices of the namespace it was mounted in. */
  #mountSysfs(index: number): void {
    const target = this.sysfsPath(index)
    mkdirSync(target, { recursive: true })
    const attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
    inNetworkNamespace(this.netnsPath(index), () => mountNew('sysfs', [], target, attributes))
  }

  /** As `ip netns` does it: a shared mount, so that an unmount reaches copies in other mount namespaces. */
  #shareNetnsDir(): void {
    mkdirSync(netnsDir, { recursive: true })
    if (mountTable().some((entry) => entry.target === netnsDir)) return
    bindMount(netnsDir, netnsDir, { recursive: true })
    mount(null, netnsDir, null, MS_SHARED | MS_REC)
  }

  #enableForwarding(): void {
    const former = readFileSync(forwardingSwitch, 'utf8')
    if (former.trim() === '1') return
    writeFileSync(forwardingRecord, former)
    writeFileSync(forwardingSwitch, '1')
  }

  /** Leaves it on while another instance has its table: that one's sandboxes need it. */
  async #restoreForwarding(): Promise<void> {
    const { stdout } = await run('nft', ['list', 'chains', 'inet'])
    if (stdout.includes('chain from_slot') || !existsSync(forwardingRecord)) return
    writeFileSync(forwardingSwitch, readFileSync(forwardingRecord, 'utf8'))
    rmSync(forwardingRecord, { force: true })
  }

  async #tableIsComplete(): Promise<boolean> {
    const { stdout } = await run('nft', ['list', 'table', 'inet', this.#table])
    return stdout.includes('set tunnelled')
  }

  /** Interface names that are keys of a set of the table; none when it does not exist. */
  async #elementsOf(name: string): Promise<string[]> {
    try {
      const { stdout } = await run('nft', ['list', 'set', 'inet', this.#table, name])
      return [...stdout.matchAll(/"([a-z0-9]+)"/g)].map((match) => match[1] ?? '')
    } catch (error) {
      if (error instanceof Error && error.message.includes('No such file or directory')) return []
      throw error
    }
  }
}

/** Instances side by side must not forget each other's connections. */
function instanceMark(instance: string): number {
  return createHash('sha256').update(instance).digest().readUInt16BE(0) * 0x1_0000
}
