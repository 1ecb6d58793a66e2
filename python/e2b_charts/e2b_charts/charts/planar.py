"""Charts of points: lines and scatters, with the scales and ticks of both axes."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Union

import numpy
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.dates import _SwitchableDateConverter, num2date

from ..grid_lines import is_grid_line
from .base import Chart2D, ChartType

Coordinate = Union[str, float]
_UNNAMED = "_child"


@dataclass
class PointData:
    label: str
    points: list[tuple[Coordinate, Coordinate]]

    @classmethod
    def of(cls, label: str, xs: Iterable[Any], ys: Iterable[Any]) -> "PointData":
        return cls(label, [(coordinate(x), coordinate(y)) for x, y in zip(xs, ys)])


@dataclass
class PointChart(Chart2D):
    x_ticks: list[Coordinate] = field(default_factory=list)
    x_tick_labels: list[str] = field(default_factory=list)
    x_scale: str = "linear"
    y_ticks: list[Coordinate] = field(default_factory=list)
    y_tick_labels: list[str] = field(default_factory=list)
    y_scale: str = "linear"
    elements: list[PointData] = field(default_factory=list)

    def read(self, ax: Axes) -> None:
        super().read(ax)
        self.x_ticks, self.x_tick_labels, self.x_scale = self._read_axis(ax.xaxis)
        self.y_ticks, self.y_tick_labels, self.y_scale = self._read_axis(ax.yaxis)

    def _read_axis(self, axis: Axis) -> tuple[list[Coordinate], list[str], str]:
        labels = [label.get_text() for label in axis.get_ticklabels()]
        converter = converter_of(axis)
        ticks = axis.get_ticklocs()
        if isinstance(converter, _SwitchableDateConverter):
            values: list[Coordinate] = [num2date(tick).isoformat() for tick in ticks]
        else:
            values = [coordinate(tick) for tick in ticks]
        return values, labels, self._detect_scale(converter, axis.get_scale(), values, labels)

    @staticmethod
    def _detect_scale(converter: Any, scale: str, ticks: Sequence[Any], labels: Sequence[str]) -> str:
        """`datetime`, `categorical`, or matplotlib's name of the scale."""
        if isinstance(converter, _SwitchableDateConverter):
            return "datetime"
        if scale != "linear":
            return scale
        is_categorical = all(
            isinstance(tick, (int, float)) and tick == index and label != str(index)
            for index, (tick, label) in enumerate(zip(ticks, labels))
        )
        return "categorical" if is_categorical else "linear"


@dataclass
class LineChart(PointChart):
    type: ChartType = ChartType.LINE

    def read(self, ax: Axes) -> None:
        super().read(ax)
        for line in ax.get_lines():
            if is_grid_line(line):
                continue
            label = str(line.get_label())
            if label.startswith(_UNNAMED):
                label = f"Line {label[len(_UNNAMED):]}"
            self.elements.append(PointData.of(label, line.get_xdata(), line.get_ydata()))


@dataclass
class ScatterChart(PointChart):
    type: ChartType = ChartType.SCATTER

    def read(self, ax: Axes) -> None:
        super().read(ax)
        for collection in ax.collections:
            offsets = collection.get_offsets()
            self.elements.append(PointData.of(str(collection.get_label()), offsets[:, 0], offsets[:, 1]))


def coordinate(value: Any) -> Coordinate:
    """A number, NaN for a gap, or text: the ISO form of a date (seconds for numpy's), the name of a category."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, numpy.datetime64):
        return str(value.astype("datetime64[s]"))
    if value is None or value is numpy.ma.masked:
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def converter_of(axis: Axis) -> Any:
    get_converter = getattr(axis, "get_converter", None)
    return get_converter() if get_converter is not None else axis.converter
