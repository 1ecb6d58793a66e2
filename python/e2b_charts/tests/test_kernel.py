"""The extension in a real IPython shell of a process of its own, so that what is imported when can be seen."""

import json
import subprocess
import sys

PRELUDE = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.extension_manager.load_extension("e2b_charts.kernel")
format = lambda value: shell.display_formatter.format(value)[0]
answer = lambda value: print(json.dumps(value))
"""


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_nothing_heavy_is_imported():
    loaded = run("format(1); answer([m for m in ('numpy', 'pandas', 'matplotlib', 'PIL') if m in sys.modules])")
    assert loaded == []


def test_no_name_is_left_in_the_users_namespace():
    assert run("answer([n for n in shell.user_ns if 'e2b' in n.lower()])") == []


def test_lists_and_dicts_are_json():
    assert run("answer(format([1, {'a': None}])['application/json'])") == [1, {"a": None}]


def test_numpy_values_and_other_keys_in_json():
    shown = run("import numpy; answer(format({1: numpy.arange(2), 'f': numpy.float64(0.5)})['application/json'])")
    assert shown == {"1": [0, 1], "f": 0.5}


def test_lists_of_objects_have_no_json():
    assert run("answer('application/json' in format([object()]))") is False


def test_frames_are_data():
    code = """
import pandas
frame = pandas.DataFrame({"when": [pandas.Timestamp("2024-01-02"), pandas.NaT], 7: [1.5, float("nan")]})
answer(format(frame)["e2b/data"])
"""
    assert run(code) == {"when": ["2024-01-02T00:00:00", "NaT"], "7": [1.5, None]}


def test_figures_are_charts():
    code = """
import matplotlib; matplotlib.use("agg")
import matplotlib.pyplot as plt
plt.plot([1, 2, 3], [1, 4, 9])
answer(format(plt.gcf())["e2b/chart"]["type"])
"""
    assert run(code) == "line"


def test_saving_an_image_shows_it(tmp_path):
    code = f"""
import PIL.Image, PIL.ImageShow
shown = []
import e2b_charts.kernel.images as images
images.display = shown.append
image = PIL.Image.new("RGB", (2, 2))
image.save({str(tmp_path / "a.png")!r})
image.show()
answer(len(shown))
"""
    assert run(code) == 2
    assert (tmp_path / "a.png").exists()


def test_halves_of_characters_do_not_cost_the_message():
    code = """
import json
from e2b_charts.kernel.packing import pack
answer([json.loads(pack({"text": text})) for text in ("\\ud800", "whole")])
"""
    assert run(code) == [{"text": "\ud800"}, {"text": "whole"}]
