"""Writes what an execution displayed to files that a person can open."""

import base64
import json
from pathlib import Path

from e2b_code_interpreter import Execution

BINARY = {"png": "png", "jpeg": "jpg", "pdf": "pdf"}
TEXT = {"svg": "svg", "html": "html", "markdown": "md", "latex": "tex", "javascript": "js"}
DATA = {"json": "json", "data": "data.json"}


def save_results(execution: Execution, directory: Path, name: str = "result") -> list[Path]:
    """
    Writes every format of every result as `<name>-<number>.<ending>`.

    A result comes in several formats: a matplotlib figure is an image and a text, `<Figure size 640x480>`.
    The text is written only where there is nothing better.
    """
    directory.mkdir(parents=True, exist_ok=True)
    saved = []
    for number, result in enumerate(execution.results, start=1):
        contents: dict[str, bytes] = {}
        for format, ending in BINARY.items():
            if result[format]:
                contents[ending] = base64.b64decode(result[format])
        for format, ending in DATA.items():
            if result[format]:
                contents[ending] = json.dumps(result[format], indent=2).encode()
        if result.chart:
            contents["chart.json"] = json.dumps(result.chart.to_dict(), indent=2).encode()
        for format, ending in TEXT.items():
            if result[format]:
                contents[ending] = result[format].encode()
        if result.text and not contents:
            contents["txt"] = result.text.encode()
        for ending, content in contents.items():
            path = directory / f"{name}-{number}.{ending}"
            path.write_bytes(content)
            saved.append(path)
    return saved
