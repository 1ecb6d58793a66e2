"""Two tools for a model, backed by one sandbox; `openai_tools.py` and `anthropic_tools.py` offer them."""

from pathlib import Path

from e2b_code_interpreter import CommandExitException, Execution, Sandbox

from save_results import save_results

SYSTEM = "You are a data analyst. Use the tools to compute; never guess a number. Be brief."
TASK = "How do the monthly sales in /home/user/sales.csv develop? Draw them, and tell me the best month."
SALES = "month,sales\nJanuary,120\nFebruary,95\nMarch,143\nApril,171\nMay,166\n"

MAX_TURNS = 10
"""How often the model is asked before we give up on it."""

SANDBOX_TIMEOUT = 15 * 60
"""Seconds that the sandbox lives: models take their time, and the default is five minutes."""

MAX_OUTPUT = 10_000
"""Characters of one tool's output that the model gets to see; it pays for each."""

TOOLS = [
    {
        "name": "run_code",
        "description": "Runs Python in a Jupyter kernel that keeps its state. Charts are shown to the user.",
        "parameters": {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "Python source"}},
            "required": ["code"],
        },
    },
    {
        "name": "run_command",
        "description": "Runs a shell command in /home/user, on the machine of run_code.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string", "description": "Command line for bash"}},
            "required": ["command"],
        },
    },
]
"""Name, purpose and JSON Schema of each tool; the providers differ only in how they wrap this."""


class SandboxTools:
    """Runs what the model calls. Results that a person can look at are written to `directory`."""

    def __init__(self, sandbox: Sandbox, directory: Path) -> None:
        self._sandbox = sandbox
        self._directory = directory
        self._executions = 0

    def call(self, name: str, arguments: dict[str, str]) -> str:
        """The tool's output. Failures are output too: a model that reads its error can correct itself."""
        try:
            if name == "run_code":
                output = self._run_code(arguments["code"])
            elif name == "run_command":
                output = self._run_command(arguments["command"])
            else:
                output = f"There is no tool {name!r}."
        except Exception as error:
            output = f"{type(error).__name__}: {error}"
        print(f"{name} -> {output[:200].rstrip()}")
        return output[:MAX_OUTPUT]

    def _run_code(self, code: str) -> str:
        execution = self._sandbox.run_code(code, timeout=60)
        self._executions += 1
        saved = save_results(execution, self._directory, f"execution-{self._executions}")
        return describe(execution, saved)

    def _run_command(self, command: str) -> str:
        try:
            result = self._sandbox.commands.run(command, timeout=60)
        except CommandExitException as failed:
            return f"{failed.stdout}{failed.stderr}exit code {failed.exit_code}"
        return f"{result.stdout}{result.stderr}" or "done"


def describe(execution: Execution, saved: list[Path]) -> str:
    """An execution in words, for the model."""
    # Both streams come in pieces that end anywhere.
    parts = ["".join(execution.logs.stdout), "".join(execution.logs.stderr)]
    if execution.text:
        parts.append(execution.text)
    if execution.error:
        parts.append(f"{execution.error.name}: {execution.error.value}\n{execution.error.traceback}")
    # A text file holds what the model has just read.
    parts += [f"Shown to the user: {path.name}" for path in saved if path.suffix != ".txt"]
    return "\n".join(part.rstrip() for part in parts if part) or "done"
