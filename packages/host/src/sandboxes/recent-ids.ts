/** The ids that were added last, up to a bound. */
export class RecentIds {
  readonly #ids = new Set<string>()
  readonly #bound: number

  constructor(bound: number) {
    this.#bound = bound
  }

  has(id: string): boolean {
    return this.#ids.has(id)
  }

  add(id: string): void {
    this.#ids.add(id)
    for (const oldest of this.#ids) {
      if (this.#ids.size <= this.#bound) break
      this.#ids.delete(oldest)
    }
  }

  delete(id: string): void {
    this.#ids.delete(id)
  }
}
