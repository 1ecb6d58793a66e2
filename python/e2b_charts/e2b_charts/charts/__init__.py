from .bars import BarChart, BarData
from .base import Chart, Chart2D, ChartType
from .boxes import BoxAndWhiskerChart, BoxAndWhiskerData
from .pie import PieChart, PieData
from .planar import LineChart, PointChart, PointData, ScatterChart

__all__ = [
    "BarChart",
    "BarData",
    "BoxAndWhiskerChart",
    "BoxAndWhiskerData",
    "Chart",
    "Chart2D",
    "ChartType",
    "LineChart",
    "PieChart",
    "PieData",
    "PointChart",
    "PointData",
    "ScatterChart",
]
