"Pictures are complete, repeatable, readable on any page, and said in words"

import hashlib
import os
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from mlserve.contract import Output
from mlserve.evaluate import as_dict, from_dict, measure
from mlserve.plots import alt_texts, pictures

from .test_evaluate import MAKE, answers, binary, multiclass, regression

ROOT = Path(__file__).resolve().parent.parent
LONG = "Married-civilian-spouse-absent-or-separated"


def names(rows, count=4):
    return np.array([f"{LONG} {k}" for k in range(count)], dtype=object)[np.arange(rows) % count]


def one_class():
    truth = np.array(["a"] * 60, dtype=object)
    odds = np.tile([0.8, 0.2], (60, 1))
    return measure(
        Output("binary", "y", ("a", "b"), "b"), truth, truth, odds, (truth, None), {"side": np.arange(60) % 2}
    )


def perfect():
    truth = np.arange(90) % 3
    output = Output("multiclass", "y", (0, 1, 2))
    return measure(output, truth, truth, np.eye(3)[truth], (truth, None), {"side": np.arange(90) % 2})


def constant():
    truth = np.full(80, 5.0)
    return measure(Output("regression", "y"), truth, truth - 0.1, None, (truth, None), {"side": np.arange(80) % 2})


def single():
    return measure(Output("regression", "y"), np.array([3.0]), np.array([4.0]), None, (np.array([3.0]), None))


def decisions_only():
    truth = np.array([False, True] * 100)
    return measure(Output("binary", "y", (False, True), True), truth, ~truth, None, (truth, None))


def huge():
    rng = np.random.default_rng(0)
    truth = rng.normal(1e9, 1e6, 500)
    return measure(Output("regression", "price", unit="€"), truth, truth + rng.normal(0, 1e5, 500), None, (truth, None))


def long_unit():
    truth = np.random.default_rng(0).normal(150, 50, 500)
    output = Output(
        "regression", "progression of the illness within a year", unit="points on the progression score of 1994"
    )
    return measure(output, truth, truth + 9, None, (truth, None), {"status": names(500)})


REPORTS = {
    "binary": lambda: binary(800, slices={"marital status of the applicant": names(800)}),
    "long labels": lambda: binary(800, classes=(f"not {LONG}", LONG), slices={"side": np.arange(800) % 3}),
    "odd labels": lambda: binary(
        800, classes=("$a_1$ \\frac", "b\n\t$"), slices={"$x^2": names(800, 2), "％": names(800, 30)}
    ),
    "rare": lambda: binary(3000, base=-5, slices={"side": np.arange(3000) % 30}),
    "many slices": lambda: binary(6000, slices={"first": np.arange(6000) % 70, "second": np.arange(6000) % 11}),
    "multiclass": lambda: multiclass(800, slices={"status": names(800)}),
    "forty classes": lambda: multiclass(2000, shares=(1 / 40,) * 40),
    "regression": lambda: regression(800, slices={"status": names(800)}),
    "one class": one_class,
    "perfect": perfect,
    "constant": constant,
    "single": single,
    "decisions only": decisions_only,
    "huge": huge,
    "long unit": long_unit,
}


@pytest.fixture(scope="module", params=REPORTS)
def report(request):
    return REPORTS[request.param]()


def pixels(tmp_path, data):
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    return imread(path)


def chunks(data):
    "The kinds of blocks a PNG consists of"
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        yield data[at + 4 : at + 8].decode()
        at += length + 12


def test_any_report_can_be_drawn_and_nothing_is_cut_off(report, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = pictures(report)
    assert list(drawn) == list(alt_texts(report))
    for file, data in drawn.items():
        picture = pixels(tmp_path, data)
        height, width = picture.shape[:2]
        assert 300 < height < 2500 and 600 < width < 2000, (file, height, width)
        edge = np.concatenate([picture[:3].reshape(-1, 4), picture[-3:].reshape(-1, 4), picture[:, :3].reshape(-1, 4),
                               picture[:, -3:].reshape(-1, 4)])  # fmt: skip
        assert (edge[:, :3] > 0.98).all(), f"something touches the edge of {file}"
        assert (picture[..., 3] == 1).all(), f"{file} shines through"
        assert (picture[..., :3].mean(axis=2) < 0.5).sum() > 500, f"{file} is empty"


def test_words_say_what_is_drawn(report):
    for file, words in alt_texts(report).items():
        assert words.endswith("."), file
        assert "\n" not in words and "nan" not in words, words
        assert 40 < len(words) < 900, words


def test_words_hold_the_numbers():
    made = binary(800, slices={"side": np.arange(800) % 3})
    words = alt_texts(made)
    area = made.metrics["roc_auc"]
    assert f"{area.value:.3f} (95 % interval {area.low:.3f} to {area.high:.3f})" in words["roc.png"]
    assert f"{made.metrics['recall'].value:.0%} of the rows" in words["roc.png"]
    assert f"{made.metrics['precision'].value:.0%} of the rows it calls “yes”" in words["precision_recall.png"]
    assert f"right in {made.metrics['accuracy'].value:.1%}" in words["confusion.png"]
    numbers = regression(800)
    error = numbers.metrics["rmse"]
    assert (
        f"{error.value:.4g} days (95 % interval {error.low:.4g} to {error.high:.4g})"
        in alt_texts(numbers)["predicted_vs_actual.png"]
    )


EXPECTED = {
    "binary": ["roc.png", "precision_recall.png", "calibration.png", "confusion.png"],
    "multiclass": ["roc.png", "calibration.png", "confusion.png"],
    "regression": ["predicted_vs_actual.png", "residuals.png"],
}


@pytest.mark.parametrize("task", MAKE)
def test_each_task_has_its_pictures(task):
    assert list(pictures(MAKE[task](300))) == EXPECTED[task]
    with_slices = MAKE[task](300, slices={"side": np.arange(300) % 2})
    assert list(pictures(with_slices)) == [*EXPECTED[task], "slices.png"]


def test_what_was_not_measured_is_not_drawn():
    assert list(pictures(one_class())) == ["calibration.png", "confusion.png", "slices.png"]
    assert list(pictures(decisions_only())) == ["confusion.png"]


@pytest.mark.parametrize("task", MAKE)
def test_a_stored_report_gives_the_same_bytes(task):
    made = MAKE[task](300, slices={"side": np.arange(300) % 2})
    assert pictures(from_dict(as_dict(made))) == pictures(made)


def test_pictures_tell_nothing_about_when_and_where():
    kinds = {kind for data in pictures(binary(300)).values() for kind in chunks(data)}
    assert kinds == {"IHDR", "PLTE", "IDAT", "IEND"}


def test_another_process_with_another_taste_gives_the_same_bytes(tmp_path):
    (tmp_path / "matplotlibrc").write_text(
        "figure.facecolor: black\nfont.size: 30\nlines.linewidth: 9\naxes.grid: False\n"
    )
    code = (
        "import hashlib, sys; from tests.test_evaluate import binary; from mlserve.plots import pictures\n"
        "data = b''.join(pictures(binary(300)).values())\n"
        "print(hashlib.sha256(data).hexdigest(), 'matplotlib.pyplot' in sys.modules)"
    )
    environ = {**os.environ, "MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "svg"}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    assert out.split() == [hashlib.sha256(b"".join(pictures(binary(300)).values())).hexdigest(), "False"]


def test_drawing_leaves_no_settings_behind():
    before = dict(matplotlib.rcParams)
    pictures(binary(300))
    assert dict(matplotlib.rcParams) == before


def test_the_mistake_named_is_the_most_frequent_one():
    truth, odds = answers(600, 3)
    said = odds.argmax(axis=1)
    table = np.zeros((4, 4), dtype=int)
    np.add.at(table, (truth, said), 1)
    np.fill_diagonal(table, 0)
    row, column = np.unravel_index(table.argmax(), table.shape)
    assert (
        f"say “class {column}” for “class {row}”: {table.max():,} rows"
        in alt_texts(multiclass(600, 3))["confusion.png"]
    )
