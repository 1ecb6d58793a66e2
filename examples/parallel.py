"""Two sandboxes at work at the same time, each on half of the numbers.

    eval "$(npm run -s env)"
    python examples/parallel.py
"""

import asyncio

from e2b_code_interpreter import AsyncSandbox


async def count_primes(start: int, stop: int) -> int:
    async with await AsyncSandbox.create() as sandbox:
        execution = await sandbox.run_code(f"""
from math import isqrt
sum(all(n % d for d in range(2, isqrt(n) + 1)) for n in range({start}, {stop}))
""")
        if execution.error:
            raise RuntimeError(execution.error.traceback)
        print(f"{sandbox.sandbox_id}: {execution.text} primes in [{start}, {stop})")
        return int(execution.text)


async def main() -> None:
    counts = await asyncio.gather(count_primes(2, 50_000), count_primes(50_000, 100_000))
    print(f"{sum(counts)} primes below 100000")


if __name__ == "__main__":
    asyncio.run(main())
