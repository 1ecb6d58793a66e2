"""Tool calling with the OpenAI client: the model works in a sandbox for as many turns as it needs.

    eval "$(npm run -s env)"                 # where the sandboxes are
    export OPENAI_API_KEY=...                # OPENAI_BASE_URL for another provider, MODEL for another model
    pip install openai e2b-code-interpreter
    python examples/openai_tools.py [directory for the charts]
"""

import json
import os
import sys
from pathlib import Path

from e2b_code_interpreter import Sandbox
from openai import OpenAI

from sandbox_tools import MAX_TURNS, SALES, SANDBOX_TIMEOUT, SYSTEM, TASK, TOOLS, SandboxTools


def work(tools: SandboxTools) -> str:
    """Asks, runs what the model calls, tells it the outcome, and asks again, until it answers in words."""
    client = OpenAI()
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": TASK}]
    for _ in range(MAX_TURNS):
        response = client.chat.completions.create(
            model=os.environ.get("MODEL", "gpt-5.5"),
            messages=messages,
            tools=[{"type": "function", "function": tool} for tool in TOOLS],
        )
        message = response.choices[0].message
        if not message.tool_calls:
            return message.content or ""
        messages.append(message)
        # The model may call several tools at once; every call needs its answer before the next turn.
        for call in message.tool_calls:
            output = answer(tools, call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
    raise SystemExit(f"The model has not finished after {MAX_TURNS} turns.")


def answer(tools: SandboxTools, name: str, arguments: str) -> str:
    """The arguments are JSON that the model wrote, so they may be broken."""
    try:
        return tools.call(name, json.loads(arguments))
    except json.JSONDecodeError as error:
        return f"The arguments are not JSON: {error}"


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    with Sandbox.create(timeout=SANDBOX_TIMEOUT) as sandbox:
        sandbox.files.write("/home/user/sales.csv", SALES)
        print(work(SandboxTools(sandbox, directory)))


if __name__ == "__main__":
    main()
