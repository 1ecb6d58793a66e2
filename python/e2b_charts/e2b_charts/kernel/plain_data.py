"""Objects to what JSON can hold."""

import json
import math
from typing import Any

_PLAIN = (str, int, bool, type(None))


def plain(value: Any) -> Any:
    """A copy of lists and dicts that JSON can hold: numpy values as numbers and lists, keys as text, NaN as None.

    Raises TypeError for anything else in it.
    """
    try:
        import orjson
    except ImportError:
        return json.loads(json.dumps(value, allow_nan=False))
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return orjson.loads(orjson.dumps(value, option=options))


def plain_column(values: list[Any]) -> list[Any]:
    """The cells of a column: numbers and text as they are, times in ISO form, the rest as text, NaN as None."""
    return [_plain_cell(value) for value in values]


def _plain_cell(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, _PLAIN):
        return value
    if hasattr(value, "isoformat"):
        return value.isoformat()
    try:
        return plain(value)
    except (TypeError, ValueError, RecursionError):
        return str(value)
