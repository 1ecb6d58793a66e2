"""Box plots. matplotlib keeps no statistics of them, only shapes: one patch a box, lines for all the rest."""

from dataclasses import dataclass, field
from typing import Optional

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch

from ..rounding import rounded
from .base import Chart2D, ChartType


@dataclass
class BoxAndWhiskerData:
    label: str
    min: float
    first_quartile: float
    median: float
    third_quartile: float
    max: float
    outliers: list[float] = field(default_factory=list)


@dataclass
class BoxAndWhiskerChart(Chart2D):
    type: ChartType = ChartType.BOX_AND_WHISKER
    elements: list[BoxAndWhiskerData] = field(default_factory=list)

    def read(self, ax: Axes) -> None:
        super().read(ax)
        lines = [_Segment.of(line) for line in ax.lines]
        corners = [patch.get_path().vertices for patch in ax.patches if isinstance(patch, PathPatch)]
        xs = [[rounded(x) for x in vertices[:, 0]] for vertices in corners]
        ys = [[rounded(y) for y in vertices[:, 1]] for vertices in corners]
        lying = _is_lying(xs, ys, lines)
        if lying:
            self.swap_axes()
            xs, ys = ys, xs
            lines = [line.turned() for line in lines]
        ticks = ax.get_yticklabels() if lying else ax.get_xticklabels()
        labels = [tick.get_text() for tick in ticks]
        for label, across, along in zip(labels, xs, ys):
            self.elements.append(_statistics(label, across, along, lines))


@dataclass
class _Segment:
    """The points of a line: `across` runs from box to box, `along` is the axis of values."""

    across: list[float]
    along: list[float]
    is_dots: bool

    @classmethod
    def of(cls, line: Line2D) -> "_Segment":
        xs = [rounded(x) for x in line.get_xdata(orig=False)]
        ys = [rounded(y) for y in line.get_ydata(orig=False)]
        return cls(xs, ys, line.get_linestyle() == "None" or len(xs) == 1)

    def turned(self) -> "_Segment":
        return _Segment(self.along, self.across, self.is_dots)

    def lies_within(self, low: float, high: float) -> bool:
        return bool(self.across) and low <= min(self.across) and max(self.across) <= high


def _is_lying(xs: list[list[float]], ys: list[list[float]], lines: list[_Segment]) -> bool:
    """The whiskers tell: they leave the box along the axis of values."""
    for x, y in zip(xs, ys):
        for line in lines:
            if line.is_dots or len(line.across) != 2:
                continue
            is_level = line.along[0] == line.along[1] and line.across[0] != line.across[1]
            if is_level and (max(line.across) == min(x) or min(line.across) == max(x)):
                if min(y) < line.along[0] < max(y):
                    return True
    return False


def _statistics(
    label: str, across: list[float], along: list[float], lines: list[_Segment]
) -> BoxAndWhiskerData:
    left, right, low, high = min(across), max(across), min(along), max(along)
    lowest, highest = low, high
    median: Optional[float] = None
    median_width = -1.0
    outliers: list[float] = []
    for line in lines:
        if not line.lies_within(left, right):
            continue
        if line.is_dots:
            outliers += [value for value in line.along if value not in outliers]
        elif len(line.along) == 2 and line.along[0] == line.along[1]:
            width = abs(line.across[1] - line.across[0])
            # Caps are level lines, too, but shorter than the median.
            if low <= line.along[0] <= high and width > median_width:
                median, median_width = line.along[0], width
        elif len(line.along) == 2:
            if max(line.along) == low:
                lowest = min(line.along)
            elif min(line.along) == high:
                highest = max(line.along)
    return BoxAndWhiskerData(
        label=label,
        min=lowest,
        first_quartile=low,
        median=(low + high) / 2 if median is None else median,
        third_quartile=high,
        max=highest,
        outliers=outliers,
    )
