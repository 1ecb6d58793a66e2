"""Kernel messages whose text no UTF-8 can hold: halves of characters, as in the names of files that are no text."""

import json
from typing import Any

from jupyter_client.jsonutil import json_clean, json_default
from jupyter_client.session import orjson_packer


def pack(message: Any) -> bytes:
    """JSON. Such halves are escaped, which JSON allows."""
    try:
        return orjson_packer(message)
    except UnicodeEncodeError:
        return json.dumps(json_clean(message), default=json_default, allow_nan=False).encode("ascii")
