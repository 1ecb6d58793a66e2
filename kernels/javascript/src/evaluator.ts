/**
 * Evaluates cells as V8's console does: top-level `await`, and `const`, `let` and `class` that a later cell may
 * declare again. The inspector is used on this very thread; no debugger is enabled, so code runs at full speed.
 */
import { type Runtime, Session } from 'node:inspector'
import { promiseHooks } from 'node:v8'

/** `line` and `column` (from 1) are where V8 met the error, which a syntax error itself does not tell. */
export type Outcome = { value: unknown } | { thrown: unknown; line: number; column: number }

const GROUP = 'cell'

export class Evaluator {
  readonly #session = new Session()
  /**
   * The promises of cells that have not ended. V8 tells the end of such a promise also when it is collected as
   * garbage, and calls JavaScript while it collects, which ends the process: they must not be collected.
   */
  readonly #unsettled = new Set<Promise<unknown>>()
  #received: unknown
  /** V8's handle of the function that takes a value from it. */
  readonly #receiver: Promise<string>

  constructor() {
    this.#session.connect()
    const name = '__receiver'
    Object.defineProperty(globalThis, name, {
      configurable: true,
      value: (received: unknown) => {
        this.#received = received
      },
    })
    this.#receiver = this.#evaluate({ expression: name }).then((reply) => reply?.result.objectId ?? '')
    Reflect.deleteProperty(globalThis, name)
  }

  /**
   * Resolves when the code has run and what it awaits is settled; never, when it is ended from outside meanwhile.
   * @param name is what stack traces call the code
   */
  async evaluate(code: string, name: string): Promise<Outcome> {
    const reply = await this.#evaluate({
      expression: `${code}\n//# sourceURL=${name}`,
      replMode: true,
      objectGroup: GROUP,
    })
    if (reply === undefined) return { thrown: new Error('Execution was interrupted'), line: 0, column: 0 }
    const { result, exceptionDetails } = reply
    try {
      if (exceptionDetails === undefined) return { value: await this.#valueOf(result) }
      return {
        thrown: await this.#valueOf(exceptionDetails.exception ?? result),
        line: exceptionDetails.lineNumber + 1,
        column: exceptionDetails.columnNumber + 1,
      }
    } finally {
      this.#session.post('Runtime.releaseObjectGroup', { objectGroup: GROUP })
    }
  }

  /** Undefined when V8 refused, which it does when the execution was ended from outside. */
  #evaluate(
    parameters: Runtime.EvaluateParameterType & { replMode?: boolean },
  ): Promise<Runtime.EvaluateReturnType | undefined> {
    return new Promise((resolve) => {
      let promise: Promise<unknown> | undefined
      // The first promise that is made is the one of the cell as a whole.
      const stop = promiseHooks.onInit((made) => {
        promise = made
        this.#unsettled.add(made)
        stop()
      })
      this.#session.post('Runtime.evaluate', parameters, (error, reply) => {
        if (promise !== undefined) this.#unsettled.delete(promise)
        resolve(error === null ? reply : undefined)
      })
      stop()
    })
  }

  /** The value itself, which V8 hands out as a description only. */
  async #valueOf(remote: Runtime.RemoteObject): Promise<unknown> {
    const { objectId, unserializableValue, type } = remote
    if (objectId === undefined) {
      if (unserializableValue === undefined) return remote.value
      return type === 'bigint' ? BigInt(unserializableValue.slice(0, -1)) : Number(unserializableValue)
    }
    const receiver = await this.#receiver
    return new Promise((resolve) => {
      const call = {
        functionDeclaration: 'function (value) { this(value) }',
        objectId: receiver,
        arguments: [{ objectId }],
      }
      this.#session.post('Runtime.callFunctionOn', call, () => {
        resolve(this.#received)
        this.#received = undefined
      })
    })
  }
}
