"""The main job: an official client runs code in a fresh, isolated sandbox.

    eval "$(npm run -s env)"
    python examples/quickstart.py [chart.png]
"""

import base64
import sys
import time

from e2b_code_interpreter import Sandbox

CHART = """
import matplotlib.pyplot as plt

languages = ["Python", "JavaScript", "TypeScript", "Java", "C++"]
plt.bar(languages, [29.6, 8.7, 7.2, 15.1, 6.6])
plt.title("Popularity of programming languages")
plt.ylabel("Share (%)")
plt.show()
"""


def main() -> None:
    chart_path = sys.argv[1] if len(sys.argv) > 1 else "chart.png"
    began = time.perf_counter()
    with Sandbox.create() as sandbox:
        print(f"sandbox   {sandbox.sandbox_id} created in {(time.perf_counter() - began) * 1000:.0f} ms")

        printed = sandbox.run_code("print('hello from the sandbox')")
        print("prints   ", "".join(printed.logs.stdout).strip())

        returned = sandbox.run_code("sum(range(10))")
        print("returns  ", returned.text)

        drawn = sandbox.run_code(CHART)
        png = next(result.png for result in drawn.results if result.png)
        with open(chart_path, "wb") as file:
            file.write(base64.b64decode(png))
        chart = next((result.chart for result in drawn.results if result.chart), None)
        print("draws    ", f"{chart.type.value if chart else 'chart'} chart, saved as {chart_path}")

        failed = sandbox.run_code("1 / 0")
        if failed.error is None:
            raise SystemExit("the division by zero raised no error")
        print("raises   ", f"{failed.error.name}: {failed.error.value}")

        sandbox.files.write("/home/user/notes.txt", "kept in the sandbox")
        print("file     ", sandbox.files.read("/home/user/notes.txt"))

        command = sandbox.commands.run("uname -s && whoami")
        print("command  ", " ".join(command.stdout.split()))
    print(f"done in {time.perf_counter() - began:.1f} s, the sandbox is gone")


if __name__ == "__main__":
    main()
