import json

import matplotlib
import numpy
import pandas
import pytest

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402

from e2b_charts import chart_figure_to_dict  # noqa: E402


@pytest.fixture()
def axes():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def chart_of(ax):
    chart = chart_figure_to_dict(ax.figure)
    assert json.loads(json.dumps(chart)) is not None
    return chart


def test_blank_figure_has_no_chart(axes):
    assert chart_of(axes) == {}


def test_line_has_ticks_scales_and_named_lines(axes):
    axes.plot([1, 2, 3], [2.0, 4.0, 8.0])
    axes.plot([1, 3], [0, 1], label="named")
    axes.set(xlabel="Time (s)", ylabel="Force [N]", yscale="log")
    chart = chart_of(axes)
    assert chart["type"] == "line" and chart["title"] is None
    assert (chart["x_label"], chart["x_unit"], chart["y_unit"]) == ("Time (s)", "s", "N")
    assert (chart["x_scale"], chart["y_scale"]) == ("linear", "log")
    assert len(chart["x_ticks"]) == len(chart["x_tick_labels"])
    assert chart["elements"][0] == {"label": "Line 0", "points": [(1.0, 2.0), (2.0, 4.0), (3.0, 8.0)]}
    assert chart["elements"][1]["label"] == "named"


def test_grid_lines_of_a_line_chart_are_no_lines(axes):
    axes.plot([1, 2, 3], [1, 4, 9])
    axes.axhline(5)
    assert len(chart_of(axes)["elements"]) == 1


def test_dates_become_iso_text_in_seconds(axes):
    axes.plot(numpy.array(["2024-01-01", "2024-01-02"], dtype="datetime64[ns]"), [1, 2])
    chart = chart_of(axes)
    assert chart["x_scale"] == "datetime"
    assert chart["elements"][0]["points"][0] == ("2024-01-01T00:00:00", 1.0)
    assert all(isinstance(tick, str) for tick in chart["x_ticks"])


def test_categories_keep_their_names(axes):
    axes.plot(["a", "b", "c"], [1, 2, 3])
    chart = chart_of(axes)
    assert chart["x_scale"] == "categorical"
    assert chart["elements"][0]["points"][2] == ("c", 3.0)


def test_gaps_are_no_text(axes):
    axes.plot([1, None, 3])
    axes.plot(numpy.ma.masked_equal([4, 5, 6], 5))
    values = [[y for _, y in line["points"]] for line in chart_of(axes)["elements"]]
    assert numpy.array_equal(values, [[1, numpy.nan, 3], [4, numpy.nan, 6]], equal_nan=True)


def test_scatter(axes):
    axes.scatter([1, 2], [3, 4], label="dots")
    axes.grid(True)
    chart = chart_of(axes)
    assert chart["type"] == "scatter"
    assert chart["elements"] == [{"label": "dots", "points": [(1.0, 3.0), (2.0, 4.0)]}]


def test_bars_in_groups(axes):
    axes.bar(["a", "b"], [1, 2])
    axes.bar(["a", "b"], [3, 4], label="second")
    elements = chart_of(axes)["elements"]
    assert elements[0] == {"label": "a", "group": "Group 0", "value": 1.0}
    assert elements[3] == {"label": "b", "group": "second", "value": 4.0}


def test_lying_bars_have_their_labels_on_x(axes):
    axes.barh(["a", "b"], [1, 2])
    axes.set(xlabel="Amount (kg)", ylabel="Name")
    chart = chart_of(axes)
    assert (chart["x_label"], chart["y_label"], chart["y_unit"]) == ("Name", "Amount (kg)", "kg")
    assert [(bar["label"], bar["value"]) for bar in chart["elements"]] == [("a", 1.0), ("b", 2.0)]


def test_bars_of_equal_height_stand(axes):
    axes.bar(["a", "b"], [5, 5])
    assert [bar["value"] for bar in chart_of(axes)["elements"]] == [5.0, 5.0]


@pytest.mark.parametrize("lying", [False, True])
def test_boxes_give_their_statistics(axes, lying):
    data = {"A": [85, 90, 78, 92, 88], "B": [95, 89, 76, 91, 84, 87]}
    axes.boxplot(data.values(), patch_artist=True, orientation="horizontal" if lying else "vertical")
    (axes.set_yticklabels if lying else axes.set_xticklabels)(data.keys())
    chart = chart_of(axes)
    assert chart["type"] == "box_and_whisker"
    assert chart["elements"] == [
        box("A", 78, 85, 88, 90, 92, []),
        box("B", 84, 84.75, 88, 90.5, 95, [76]),
    ]


def box(label, low, first, median, third, high, outliers):
    return {
        "label": label,
        "min": low,
        "first_quartile": first,
        "median": median,
        "third_quartile": third,
        "max": high,
        "outliers": outliers,
    }


def test_several_outliers_of_one_box(axes):
    axes.boxplot([[1, 2, 3, 4, 5, 6, 7, 8, 50, 60]], patch_artist=True)
    assert chart_of(axes)["elements"][0]["outliers"] == [50.0, 60.0]


def test_pie_has_angles_and_no_axes(axes):
    axes.pie([90, 10], labels=["No", "Yes"], startangle=90)
    chart = chart_of(axes)
    assert set(chart) == {"type", "title", "elements"}
    assert chart["elements"] == [
        {"label": "No", "angle": 324.0, "radius": 1.0},
        {"label": "Yes", "angle": 36.0, "radius": 1.0},
    ]


def test_several_axes_make_a_superchart():
    figure, (left, right) = plt.subplots(1, 2)
    figure.suptitle("Both")
    left.plot([1, 2, 3], [1, 2, 3])
    right.pie([1, 2])
    chart = chart_figure_to_dict(figure)
    plt.close(figure)
    assert (chart["type"], chart["title"]) == ("superchart", "Both")
    assert [one["type"] for one in chart["elements"]] == ["line", "pie"]


def test_anything_else_is_unknown(axes):
    axes.imshow([[1, 2], [3, 4]])
    assert chart_of(axes)["type"] == "unknown"


def test_pandas_plots_are_read_like_others(axes):
    pandas.DataFrame({"a": [1, 2], "b": [3, 4]}, index=["x", "y"]).plot.bar(ax=axes)
    chart = chart_of(axes)
    assert [(bar["group"], bar["label"], bar["value"]) for bar in chart["elements"]] == [
        ("a", "x", 1.0),
        ("a", "y", 2.0),
        ("b", "x", 3.0),
        ("b", "y", 4.0),
    ]
