"""Tool calling with the Anthropic client: the model works in a sandbox for as many turns as it needs.

    eval "$(npm run -s env)"               # where the sandboxes are
    export ANTHROPIC_API_KEY=...           # ANTHROPIC_BASE_URL for another provider, MODEL for another model
    pip install anthropic e2b-code-interpreter
    python examples/anthropic_tools.py [directory for the charts]
"""

import os
import sys
from pathlib import Path

from anthropic import Anthropic
from e2b_code_interpreter import Sandbox

from sandbox_tools import MAX_TURNS, SALES, SANDBOX_TIMEOUT, SYSTEM, TASK, TOOLS, SandboxTools


def work(tools: SandboxTools) -> str:
    """Asks, runs what the model calls, tells it the outcome, and asks again, until it answers in words."""
    client = Anthropic()
    messages = [{"role": "user", "content": TASK}]
    for _ in range(MAX_TURNS):
        response = client.messages.create(
            model=os.environ.get("MODEL", "claude-sonnet-5-5"),
            max_tokens=4096,
            system=SYSTEM,
            messages=messages,
            tools=[
                {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
                for tool in TOOLS
            ],
        )
        if response.stop_reason != "tool_use":
            return "".join(block.text for block in response.content if block.type == "text")
        messages.append({"role": "assistant", "content": response.content})
        # The model may call several tools at once; all answers go into one message, the next of the user.
        answers = [
            {"type": "tool_result", "tool_use_id": block.id, "content": tools.call(block.name, block.input)}
            for block in response.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": answers})
    raise SystemExit(f"The model has not finished after {MAX_TURNS} turns.")


def main() -> None:
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    with Sandbox.create(timeout=SANDBOX_TIMEOUT) as sandbox:
        sandbox.files.write("/home/user/sales.csv", SALES)
        print(work(SandboxTools(sandbox, directory)))


if __name__ == "__main__":
    main()
