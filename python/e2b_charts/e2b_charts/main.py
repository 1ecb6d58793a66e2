"""From a figure to its chart: which kind of chart each axes holds, and what to make of several."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch, Rectangle, Wedge
from matplotlib.text import Text

from .charts import BarChart, BoxAndWhiskerChart, Chart, ChartType, LineChart, PieChart, ScatterChart
from .grid_lines import is_grid_line


@dataclass
class SuperChart(Chart):
    """The charts of a figure with several axes."""

    type: ChartType = ChartType.SUPERCHART
    elements: list[Chart] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        elements = [chart.to_dict() for chart in self.elements]
        return {"type": self.type.value, "title": self.title, "elements": elements}


def chart_figure_to_chart(figure: Figure) -> Optional[Chart]:
    """The chart that a figure shows, None for a blank figure."""
    axes = figure.get_axes()
    if not any(ax.has_data() for ax in axes):
        return None
    if len(axes) == 1:
        return chart_of(axes[0])
    return SuperChart(title=figure.get_suptitle() or None, elements=[chart_of(ax) for ax in axes])


def chart_figure_to_dict(figure: Figure) -> dict[str, Any]:
    """The chart as plain data, `{}` for a blank figure."""
    chart = chart_figure_to_chart(figure)
    return chart.to_dict() if chart is not None else {}


def chart_of(ax: Axes) -> Chart:
    chart = _empty_chart(_drawn(ax))
    chart.read(ax)
    return chart


def _drawn(ax: Axes) -> list[Artist]:
    """What the user's calls drew: neither text nor the parts of the axes themselves."""
    drawn = [*ax.lines, *ax.patches, *ax.collections, *ax.images, *ax.tables, *ax.artists]
    return [artist for artist in drawn if not isinstance(artist, Text)]


def _empty_chart(drawn: Sequence[Artist]) -> Chart:
    def all_are(*kinds: type) -> bool:
        return all(isinstance(artist, kinds) for artist in drawn)

    if all_are(Line2D):
        return LineChart()
    if all_are(PathPatch, Line2D):
        return BoxAndWhiskerChart()
    drawn = [artist for artist in drawn if not (isinstance(artist, Line2D) and is_grid_line(artist))]
    if all_are(PathCollection):
        return ScatterChart()
    if all_are(Wedge):
        return PieChart()
    if all_are(Rectangle):
        return BarChart()
    return Chart()
