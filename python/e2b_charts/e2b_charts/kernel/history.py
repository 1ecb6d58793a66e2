"""IPython keeps everything that was ever printed and shown, for the export of a session as a notebook. Here nobody
exports it, and a kernel that prints for hours would fill the sandbox's memory."""

from typing import Any


class _Forgetful(dict[int, list[Any]]):
    def __missing__(self, execution_count: int) -> list[Any]:
        return []


def forget_outputs(shell: Any) -> None:
    """Values of cells (`Out`, `_`) are kept as ever; what was printed and shown is not."""
    shell.history_manager.outputs = _Forgetful()
