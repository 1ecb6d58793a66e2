import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { RunPlan } from './plan.ts'

/** The official suites that can be run. */
export const SUITES = ['js-sdk', 'python-sdk', 'ci-js', 'ci-python'] as const
export type SuiteName = (typeof SUITES)[number]

export interface CaseResult {
  readonly name: string
  readonly passed: boolean
  /** First line of why it failed. */
  readonly reason?: string
}

interface Runner {
  /** Program and arguments that run these cases and write a report. */
  argv(plan: RunPlan, report: string): string[]
  read(report: string): CaseResult[]
}

const firstLine = (text: string): string => text.trim().split('\n')[0]?.slice(0, 160) ?? ''

interface VitestReport {
  testResults: {
    name: string
    message: string
    status: string
    assertionResults: { fullName: string; status: string; failureMessages: string[] }[]
  }[]
}

/** Cases are named `file :: full name`, the file below the suite's folder of tests. */
function vitest(projects: readonly string[]): Runner {
  return {
    argv(plan, report) {
      const files = new Set(plan.cases?.map((name) => join('tests', name.split(' :: ')[0]!)))
      return [
        process.execPath,
        join(plan.suiteDir, 'node_modules/vitest/vitest.mjs'),
        'run',
        ...projects.flatMap((project) => ['--project', project]),
        '--reporter=default',
        '--reporter=json',
        `--outputFile=${report}`,
        `--maxWorkers=${plan.workers}`,
        ...files,
      ]
    },
    read(report) {
      const { testResults } = JSON.parse(readFileSync(report, 'utf8')) as VitestReport
      return testResults.flatMap((file) => {
        const name = file.name.split('/tests/').at(-1)!
        return file.assertionResults
          .filter(({ status }) => status === 'passed' || status === 'failed')
          .map((each) => ({
            name: `${name} :: ${each.fullName}`,
            passed: each.status === 'passed',
            ...(each.status === 'passed'
              ? {}
              : { reason: firstLine(each.failureMessages[0] ?? file.message) }),
          }))
      })
    },
  }
}

const unescapeXml = (text: string): string =>
  text
    .replace(/&#(\d+);/g, (_match, code: string) => String.fromCodePoint(Number(code)))
    .replaceAll('&lt;', '<')
    .replaceAll('&gt;', '>')
    .replaceAll('&quot;', '"')
    .replaceAll('&apos;', "'")
    .replaceAll('&amp;', '&')

/** Cases are node ids: `tests/a/test_b.py::test_c`. */
const pytest: Runner = {
  argv(plan, report) {
    return [
      plan.python,
      '-m',
      'pytest',
      '-q',
      '-p',
      'no:cacheprovider',
      '-n',
      String(plan.workers),
      `--junitxml=${report}`,
      ...(plan.cases ?? []),
    ]
  },
  read(report) {
    const cases = readFileSync(report, 'utf8').matchAll(
      /<testcase classname="([^"]*)" name="([^"]*)"[^>]*?(?:\/>|>(.*?)<\/testcase>)/gs,
    )
    return [...cases]
      .filter(([, , , body]) => !body?.includes('<skipped'))
      .map(([, folder, name, body]) => {
        const failure = /<(?:failure|error) message="([^"]*)"/.exec(body ?? '')?.[1]
        return {
          name: `${folder!.replaceAll('.', '/')}.py::${unescapeXml(name!)}`,
          passed: failure === undefined,
          ...(failure === undefined ? {} : { reason: firstLine(unescapeXml(failure)) }),
        }
      })
  },
}

const runners: Record<SuiteName, Runner> = {
  'js-sdk': vitest(['unit', 'connectionConfig', 'template']),
  'python-sdk': pytest,
  'ci-js': vitest([]),
  'ci-python': pytest,
}

export const suiteCommand = (plan: RunPlan, report: string): string[] =>
  runners[plan.suite].argv(plan, report)

/**
 * What the cases that count came to. A case of the list that the report does not have has failed: it was skipped, or
 * its file could not be loaded. One name may be several cases (parameters).
 */
export function readResults(plan: RunPlan, report: string): CaseResult[] {
  const results = existsSync(report) ? runners[plan.suite].read(report) : []
  if (!plan.cases) return results
  return plan.cases.flatMap((name) => {
    const found = results.filter((result) => result.name === name)
    return found.length > 0 ? found : [{ name, passed: false, reason: 'did not run' }]
  })
}
