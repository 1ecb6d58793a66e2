import { defineConfig } from 'vitest/config'

/**
 * Unit tests lie beside the code; whole-system tests share one server and run one file at a time. Files of the engines
 * have a host each, and wait much: two run side by side.
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
          testTimeout: 60_000,
          hookTimeout: 180_000,
          maxWorkers: 2,
        },
      },
      {
        test: {
          name: 'system',
          include: ['tests/system/**/*.test.ts'],
          globalSetup: ['tests/system/harness/global-setup.ts'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
          fileParallelism: false,
          setupFiles: ['tests/system/harness/clients.ts'],
        },
      },
      {
        test: {
          name: 'engines',
          include: ['tests/engines/**/*.test.ts'],
          testTimeout: 60_000,
          hookTimeout: 120_000,
          maxWorkers: 2,
        },
      },
    ],
  },
})
