import type { Case } from './case.ts'
import { cloneCases } from './clone-cases.ts'
import { crashCases } from './crash-cases.ts'
import { greedCases } from './greed-cases.ts'
import { lifeCases, rebootCases } from './life-cases.ts'
import { limitCases } from './limit-cases.ts'
import { memoryCases } from './memory-cases.ts'
import { networkCases } from './network-cases.ts'
import { wallCases } from './wall-cases.ts'

/** In the order in which they run. */
export const cases: readonly Case[] = [
  ...lifeCases,
  ...memoryCases,
  ...cloneCases,
  ...wallCases,
  ...networkCases,
  ...greedCases,
  ...limitCases,
  ...crashCases,
  ...rebootCases,
]
