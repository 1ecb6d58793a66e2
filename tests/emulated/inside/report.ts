/** Reports to the program outside: one line of JSON on the console each. */
export function report(event: string, facts: Readonly<Record<string, unknown>> = {}): void {
  process.stdout.write(`@@ ${JSON.stringify({ event, ...facts })}\n`)
}
