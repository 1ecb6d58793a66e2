"""Formatters for `e2b/data`, `e2b/chart` and JSON. Each asks first whether the library of its objects is loaded
at all, so that nothing is imported for the sake of a number."""

import sys
from typing import Any

from IPython.core.formatters import BaseFormatter, DisplayFormatter, JSONFormatter
from traitlets import ObjectName, Unicode

from .plain_data import plain, plain_column


class DataFormatter(BaseFormatter):
    """pandas DataFrames as `{column: [values]}`."""

    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")
    _return_type = (dict, str)

    def __call__(self, obj: Any) -> Any:
        pandas = sys.modules.get("pandas")
        frame = getattr(pandas, "DataFrame", None)
        if frame is None or not isinstance(obj, frame):
            return super().__call__(obj)
        columns = obj.to_dict(orient="list")
        return {str(name): plain_column(values) for name, values in columns.items()}


class ChartFormatter(BaseFormatter):
    """matplotlib figures as the data they show; `{}` where that cannot be told."""

    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")
    _return_type = (dict, str)

    def __call__(self, obj: Any) -> Any:
        figures = sys.modules.get("matplotlib.figure")
        figure = getattr(figures, "Figure", None)
        if figure is None or not isinstance(obj, figure):
            return super().__call__(obj)
        from ..main import chart_figure_to_dict

        try:
            return chart_figure_to_dict(obj)
        except Exception:
            return {}


class PlainJSONFormatter(JSONFormatter):
    """Lists and dicts as JSON, when they hold nothing that JSON cannot."""

    def __call__(self, obj: Any) -> Any:
        if isinstance(obj, (list, dict)):
            try:
                return plain(obj), {"expanded": True}
            except (TypeError, ValueError, RecursionError):
                pass
        return super().__call__(obj)


def register_formatters(display: DisplayFormatter) -> None:
    for formatter in (DataFormatter, ChartFormatter, PlainJSONFormatter):
        made = formatter(parent=display)
        display.formatters[made.format_type] = made
