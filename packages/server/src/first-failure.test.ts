import { expect, test } from 'vitest'
import { ConfigError } from './config.ts'
import { firstFailure } from './first-failure.ts'

test('is what was thrown, whatever failed while things were closed', async () => {
  const work = async (closesWell: boolean): Promise<void> => {
    await using opened = new AsyncDisposableStack()
    for (const name of ['first', 'second']) {
      opened.defer(() => {
        if (!closesWell) throw new Error(`the ${name} cannot be closed`)
      })
    }
    throw new ConfigError('the port is taken')
  }
  for (const closesWell of [true, false]) {
    const failure = await work(closesWell).catch(firstFailure)
    expect(failure).toEqual(new ConfigError('the port is taken'))
    expect(failure).toBeInstanceOf(ConfigError)
  }
})
