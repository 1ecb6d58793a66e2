"""Files: upload one, work on it in the sandbox, download what came out.

    eval "$(npm run -s env)"
    python examples/files.py [file]
"""

import gzip
import sys
from pathlib import Path

from e2b_code_interpreter import Sandbox


def main() -> None:
    source = Path(sys.argv[1] if len(sys.argv) > 1 else __file__)
    with Sandbox.create() as sandbox:
        sandbox.files.write("upload", source.read_bytes())
        sandbox.commands.run("gzip --keep upload")

        for entry in sandbox.files.list("."):
            if entry.name.startswith("upload"):
                print(f"{entry.path}: {entry.size} bytes")

        # Text is the default format of a download; everything else is bytes.
        compressed = bytes(sandbox.files.read("upload.gz", format="bytes"))
    outcome = "unchanged" if gzip.decompress(compressed) == source.read_bytes() else "DIFFERENT"
    print(f"{source.name}: compressed in the sandbox, {outcome} after the trip")


if __name__ == "__main__":
    main()
