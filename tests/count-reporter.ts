import { writeFileSync } from 'node:fs'
import type { Reporter, TestCase, TestModule, TestSuite } from 'vitest/node'

/** What a run of vitest came to. */
export interface VitestCount {
  passed: number
  /** Cases that failed, files and groups that failed outside of their cases (hooks), errors that nobody handled. */
  failed: number
  /** A name and the first line of an error for each of them. */
  failures: string[]
}

type Failure = { message?: string; stack?: string } | undefined

/** The file that COUNT_FILE names gets a run's {@link VitestCount}: vitest's own JSON has no errors outside of cases. */
export default class CountReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly unknown[]): void {
    const cases = modules.flatMap((module) => [...module.children.allTests()])
    const failures = [
      ...cases.filter((test) => test.result().state === 'failed').map(caseFailed),
      ...modules.flatMap((module) => [module, ...module.children.allSuites()]).flatMap(failedOutside),
      ...unhandled.map((error) => `an error that nobody handled\n    ${said(error as Failure)}`),
    ]
    const passed = cases.filter((test) => test.result().state === 'passed').length
    const count: VitestCount = { passed, failed: failures.length, failures }
    writeFileSync(process.env.COUNT_FILE!, JSON.stringify(count))
  }
}

const caseFailed = (test: TestCase): string =>
  `${test.module.relativeModuleId}: ${test.fullName}\n    ${firstLine(test.result().errors?.[0])}`

function failedOutside(suite: TestModule | TestSuite): string[] {
  const where =
    suite.type === 'module' ? suite.relativeModuleId : `${suite.module.relativeModuleId}: ${suite.fullName}`
  return suite.errors().map((error) => `${where}, outside of its cases\n    ${said(error)}`)
}

const firstLine = (error: Failure): string => (error?.message ?? '').split('\n', 1)[0]!

/** With the place, which no name gives: the first lines of the stack. */
const said = (error: Failure): string =>
  [
    firstLine(error),
    ...(error?.stack ?? '')
      .split('\n')
      .filter((line) => /^\s*at /.test(line))
      .slice(0, 4),
  ]
    .map((line) => line.trim())
    .join('\n    ')
