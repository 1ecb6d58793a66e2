import { defineConfig } from 'vitest/config'

/** Whole-system tests that make what they need: names, ports and addresses of their own. */
const OWN_SERVER = [
  'agent-upgrade',
  'lifecycle',
  'network',
  'observations',
  'pause',
  'power-loss',
  'restart',
].map((name) => `tests/system/${name}.test.ts`)

/**
 * What a test waits for has the time that it takes on a busy machine. A line that is logged in the instant in which a
 * file ends fails the run when vitest carries it to its main process: the workers print for themselves.
 */
const SETTINGS = {
  testTimeout: 60_000,
  expect: { poll: { timeout: 20_000 } },
  disableConsoleIntercept: true,
}

/**
 * Unit tests lie beside the code. Whole-system tests share one server, and run one file at a time, as do those with a
 * server of their own, which `npm test` runs beside them. Files of the engines wait much and run two at a time.
 */
export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: [
            'packages/*/src/**/*.test.ts',
            'kernels/*/src/**/*.test.ts',
            'templates/**/*.test.ts',
            'bench/*.test.ts',
            'tests/emulated/*.test.ts',
          ],
          ...SETTINGS,
          hookTimeout: 180_000,
          maxWorkers: 2,
        },
      },
      {
        test: {
          name: 'system',
          include: ['tests/system/**/*.test.ts'],
          exclude: OWN_SERVER,
          globalSetup: ['tests/system/harness/global-setup.ts'],
          ...SETTINGS,
          hookTimeout: 120_000,
          fileParallelism: false,
          setupFiles: ['tests/system/harness/clients.ts'],
        },
      },
      {
        test: {
          name: 'servers',
          include: OWN_SERVER,
          ...SETTINGS,
          hookTimeout: 120_000,
          fileParallelism: false,
          setupFiles: ['tests/system/harness/clients.ts'],
        },
      },
      {
        test: {
          name: 'engines',
          include: ['tests/engines/**/*.test.ts'],
          ...SETTINGS,
          hookTimeout: 120_000,
          maxWorkers: 2,
        },
      },
    ],
  },
})
