from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.patches import Wedge

from ..rounding import rounded
from .base import Chart, ChartType


@dataclass
class PieData:
    label: str
    """Degrees."""
    angle: float
    radius: float


@dataclass
class PieChart(Chart):
    type: ChartType = ChartType.PIE
    elements: list[PieData] = field(default_factory=list)

    def read(self, ax: Axes) -> None:
        super().read(ax)
        for wedge in ax.patches:
            if isinstance(wedge, Wedge):
                angle = abs(rounded(float(wedge.theta2) - float(wedge.theta1)))
                self.elements.append(PieData(str(wedge.get_label()), angle, float(wedge.r)))
