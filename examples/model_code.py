"""A model writes Python, a sandbox runs it, and the chart lands on your disk.

    eval "$(npm run -s env)"                 # where the sandboxes are
    export OPENAI_API_KEY=...                # OPENAI_BASE_URL for another provider, MODEL for another model
    pip install openai e2b-code-interpreter
    python examples/model_code.py [directory for the results]
"""

import os
import re
import sys
from pathlib import Path

from e2b_code_interpreter import Sandbox
from openai import OpenAI

from save_results import save_results

SYSTEM = "You are a Python programmer. Answer with Python code only: no explanation, no Markdown."
PROMPT = "Generate a bar chart of the top 5 programming languages by popularity."


def ask_for_code() -> str:
    response = OpenAI().chat.completions.create(
        model=os.environ.get("MODEL", "gpt-5.5"),
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
    )
    answer = response.choices[0].message.content or ""
    # Models put code into a Markdown fence even when told not to.
    fenced = re.search(r"```(?:python)?\n(.*?)```", answer, re.DOTALL)
    return fenced.group(1) if fenced else answer


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    code = ask_for_code()

    # Leaving the block kills the sandbox, whatever happened in it.
    with Sandbox.create() as sandbox:
        sandbox.run_code("!pip install matplotlib")
        execution = sandbox.run_code(code)

    print(execution.text)
    if execution.error:
        print(f"{execution.error.name}: {execution.error.value}")
    for path in save_results(execution, directory):
        print(f"saved {path}")


if __name__ == "__main__":
    main()
