"""What every chart has: a type, a title and elements; 2D charts have labelled axes."""

import re
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any, Optional

from matplotlib.axes import Axes

_UNIT = re.compile(r"\s\((.*?)\)|\[(.*?)\]")


class ChartType(str, Enum):
    LINE = "line"
    SCATTER = "scatter"
    BAR = "bar"
    PIE = "pie"
    BOX_AND_WHISKER = "box_and_whisker"
    SUPERCHART = "superchart"
    UNKNOWN = "unknown"


@dataclass
class Chart:
    """A chart that nothing but the title is known of; the base of the others."""

    type: ChartType = ChartType.UNKNOWN
    title: Optional[str] = None
    elements: list[Any] = field(default_factory=list)

    def read(self, ax: Axes) -> None:
        """Takes the chart's data from the axes."""
        self.title = ax.get_title() or None

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; absent values are None, never missing."""
        plain = asdict(self)
        plain["type"] = self.type.value
        return plain


@dataclass
class Chart2D(Chart):
    x_label: Optional[str] = None
    y_label: Optional[str] = None
    x_unit: Optional[str] = None
    y_unit: Optional[str] = None

    def read(self, ax: Axes) -> None:
        super().read(ax)
        self.x_label = ax.get_xlabel() or None
        self.y_label = ax.get_ylabel() or None
        self.x_unit = unit_in(self.x_label)
        self.y_unit = unit_in(self.y_label)

    def swap_axes(self) -> None:
        """For charts drawn lying: x stays the axis of the labels, y that of the values."""
        self.x_label, self.y_label = self.y_label, self.x_label
        self.x_unit, self.y_unit = self.y_unit, self.x_unit


def unit_in(label: Optional[str]) -> Optional[str]:
    """The unit that a label names in parentheses or brackets: `Time (s)`, `Force [N]`."""
    match = _UNIT.search(label or "")
    return (match.group(1) or match.group(2)) if match else None
