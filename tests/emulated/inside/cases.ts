import { buildCases } from './build-cases.ts'
import type { Case } from './case.ts'
import { cloneCases } from './clone-cases.ts'
import { crashCases } from './crash-cases.ts'
import { floorCases } from './floor-cases.ts'
import { greedCases } from './greed-cases.ts'
import { lifeCases, openCases, rebootCases } from './life-cases.ts'
import { limitCases } from './limit-cases.ts'
import { memoryCases } from './memory-cases.ts'
import { networkCases } from './network-cases.ts'
import type { MachineFacts, Order } from './order.ts'
import { wallCases } from './wall-cases.ts'

/** Before every part. */
export const opening: readonly Case[] = openCases

/** In the order in which they run. */
const cases: readonly Case[] = [
  ...lifeCases,
  ...memoryCases,
  ...cloneCases,
  ...wallCases,
  ...networkCases,
  ...greedCases,
  ...limitCases,
  ...buildCases,
  ...floorCases,
  ...crashCases,
  ...rebootCases,
]

const EVERYTHING: Order = { parts: [], only: [], isShort: false }

/** Those of an engine and a boot; an order without parts is for all. */
export function selectCases({ engine, monitor, boot }: MachineFacts, order: Order = EVERYTHING): Case[] {
  const { parts, only, isShort } = order
  return cases.filter(
    (each) =>
      each.boot === boot &&
      (each.engine ?? engine) === engine &&
      (each.monitor ?? monitor) === monitor &&
      (each.isEssential || !isShort) &&
      (parts.length === 0 || parts.includes(each.part)) &&
      (only.length === 0 || only.includes(each.name)),
  )
}

/** Names of the parts that an engine has cases of. */
export const partsOf = (engine: string, monitor: string): string[] => [
  ...new Set(selectCases({ engine, monitor, boot: 0 }).map(({ part }) => part)),
]
