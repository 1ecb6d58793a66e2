import { loadConfig } from '../packages/server/src/config.ts'
import { readPublishedTemplates } from '../packages/server/src/tenancy.ts'

export const TEMPLATE = 'code-interpreter-v1'

/** @throws Error that says what to do where the machine is not set up */
export function templateSnapshotId(): string {
  const template = readPublishedTemplates(loadConfig()).find(({ name }) => name === TEMPLATE)
  if (!template) throw new Error("the template is not built yet: run 'npm run quickstart' first")
  return template.snapshotId
}
