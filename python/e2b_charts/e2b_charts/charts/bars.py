from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.container import BarContainer

from .base import Chart2D, ChartType

_UNNAMED = "_container"


@dataclass
class BarData:
    label: str
    group: str
    value: float


@dataclass
class BarChart(Chart2D):
    type: ChartType = ChartType.BAR
    elements: list[BarData] = field(default_factory=list)

    def read(self, ax: Axes) -> None:
        super().read(ax)
        containers = [one for one in ax.containers if isinstance(one, BarContainer)]
        lying = bool(containers) and all(is_lying(container) for container in containers)
        if lying:
            self.swap_axes()
        ticks = ax.get_yticklabels() if lying else ax.get_xticklabels()
        labels = [tick.get_text() for tick in ticks]
        for container in containers:
            group = group_name(container)
            for label, bar in zip(labels, container):
                value = bar.get_width() if lying else bar.get_height()
                self.elements.append(BarData(label=label, group=group, value=float(value)))


def group_name(container: BarContainer) -> str:
    label = str(container.get_label())
    return f"Group {label[len(_UNNAMED):]}" if label.startswith(_UNNAMED) else label


def is_lying(container: BarContainer) -> bool:
    """True for horizontal bars."""
    if container.orientation is not None:
        return container.orientation == "horizontal"
    heights = {bar.get_height() for bar in container}
    return len(heights) == 1
