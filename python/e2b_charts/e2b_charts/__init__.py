"""Chart data out of matplotlib figures.

>>> chart_figure_to_dict(figure)["type"]
'bar'
"""

from typing import Any

from . import original_import_paths as _original_import_paths  # noqa: F401

__all__ = ["chart_figure_to_chart", "chart_figure_to_dict"]


def __getattr__(name: str) -> Any:
    # The kernel's start-up imports this package; matplotlib is loaded by who asks for a chart.
    if name in __all__:
        from . import main

        return getattr(main, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
