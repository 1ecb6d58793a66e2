"""A web server that runs in the sandbox and is reached from here by its URL.

    eval "$(npm run -s env)"
    python examples/background_server.py
"""

import time
import urllib.error
import urllib.request

from e2b_code_interpreter import Sandbox

PORT = 8000


def fetch_when_up(url: str, within_seconds: float = 15) -> str:
    """A server needs a moment to listen; until then the sandbox's proxy answers 502."""
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return response.read().decode()
        except urllib.error.HTTPError as error:
            if error.code != 502 or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main() -> None:
    with Sandbox.create() as sandbox:
        sandbox.files.write("site/index.html", "<h1>Served from a sandbox</h1>")
        server = sandbox.commands.run(f"python -m http.server {PORT} --directory site", background=True)

        url = f"https://{sandbox.get_host(PORT)}"
        print(url)
        print(fetch_when_up(url))
        server.kill()


if __name__ == "__main__":
    main()
