"Metrics equal scikit-learn's, intervals hold what they promise, and nothing that can be measured crashes"

import json
import math
import time
import tracemalloc
from functools import cache

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from sklearn import metrics as sk

from mlserve.contract import Output
from mlserve.evaluate import (
    BETTER,
    BLOCKS,
    LABELS,
    PRIMARY,
    BadAnswers,
    BadReport,
    Estimate,
    SliceReport,
    _compared,
    as_dict,
    as_text,
    average_precision,
    bootstrap,
    flat,
    from_dict,
    measure,
    roc_auc,
    share,
    slice_text,
)

SHARES = (0.5, 0.3, 0.15, 0.05)


def binary(rows, seed=0, classes=("no", "yes"), base=-1.2, slices=None, decimals=None, skill=1.0, **options):
    "A measured model of two classes; its scores are right where `skill` is 1, and tied where rounded"
    rng = np.random.default_rng(seed)
    known = rng.normal(base, 1.5, rows)
    happened = rng.random(rows) < expit(np.asarray(skill) * known)
    scores = expit(known) if decimals is None else expit(known).round(decimals)
    labels = np.array(classes, dtype=object)
    return measure(
        Output("binary", "target", classes, classes[1]),
        truth=labels[happened.astype(int)],
        predicted=labels[(scores >= 0.5).astype(int)],
        probabilities=np.column_stack([1 - scores, scores]),
        baseline=(np.full(rows, classes[0], dtype=object), np.tile([0.7, 0.3], (rows, 1))),
        slices=slices or {},
        **options,
    )


def answers(rows, seed=0, shares=SHARES, sharp=1.5):
    "Truth, probabilities of some classes"
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(shares), rows, p=shares)
    odds = np.exp(rng.normal(size=(rows, len(shares))) + sharp * np.eye(len(shares))[truth])
    return truth, odds / odds.sum(axis=1, keepdims=True)


def multiclass(rows, seed=0, slices=None, **options):
    truth, odds = answers(rows, seed, **options)
    labels = np.array([f"class {k}" for k in range(odds.shape[1])], dtype=object)
    baseline = np.full(rows, labels[0], dtype=object), np.full(odds.shape, 1 / odds.shape[1])
    output = Output("multiclass", "target", tuple(labels))
    return measure(output, labels[truth], labels[odds.argmax(axis=1)], odds, baseline, slices or {})


def regression(rows, seed=0, slices=None, scale=1.0):
    rng = np.random.default_rng(seed)
    guessed = rng.gamma(9, 2, rows)
    truth = guessed + rng.normal(0, 1 + guessed / 6) * scale
    return measure(
        Output("regression", "days", unit="days"), truth, guessed, None, (np.full(rows, 18.0), None), slices or {}
    )


MAKE = {"binary": binary, "multiclass": multiclass, "regression": regression}


def values(estimates):
    return {name: e.value for name, e in estimates.items()}


# --- equal to scikit-learn -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [("no", "yes"), ("yes", "no"), (0, 1), (False, True), (7, -3)])
@pytest.mark.parametrize("decimals", [None, 1], ids=["distinct", "tied"])
def test_metrics_of_two_classes_equal_scikit_learns(classes, decimals):
    rng = np.random.default_rng(11)
    known = rng.normal(-0.5, 1.5, 700)
    y = rng.random(700) < expit(0.7 * known)
    scores = expit(known) if decimals is None else expit(known).round(decimals)
    said = scores >= 0.4
    labels = np.array(classes, dtype=object)
    order = [1 - scores, scores]
    report = measure(
        Output("binary", "y", classes, classes[1]),
        labels[y.astype(int)],
        labels[said.astype(int)],
        np.column_stack(order),
        (labels[said.astype(int)], None),
    )
    expected = {
        "roc_auc": sk.roc_auc_score(y, scores),
        "average_precision": sk.average_precision_score(y, scores),
        "log_loss": sk.log_loss(y, scores),
        "brier": sk.brier_score_loss(y, scores),
        "accuracy": sk.accuracy_score(y, said),
        "precision": sk.precision_score(y, said),
        "recall": sk.recall_score(y, said),
        "f1": sk.f1_score(y, said),
    }
    found = values(report.metrics)
    assert found.pop("calibration_error") > 0
    assert found == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_positive_class_may_be_the_first():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    truth = np.array(["ill", "well", "ill", "ill"], dtype=object)
    said = np.array(["ill", "well", "ill", "well"], dtype=object)
    found = values(
        measure(Output("binary", "y", ("ill", "well"), "ill"), truth, said, probabilities, (said, None)).metrics
    )
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(truth == "ill", probabilities[:, 0]))


def macro_expected(truth, said, odds):
    there, named = ({"average": "macro", "labels": np.unique(seen)} for seen in (truth, said))
    return {
        "accuracy": sk.accuracy_score(truth, said),
        "macro_precision": sk.precision_score(truth, said, **named),
        "macro_recall": sk.recall_score(truth, said, **there),
        "macro_f1": sk.f1_score(truth, said, **there),
        "log_loss": sk.log_loss(truth, odds, labels=range(odds.shape[1])),
        "macro_roc_auc": np.mean([sk.roc_auc_score(truth == k, odds[:, k]) for k in np.unique(truth)]),
    }


@pytest.mark.parametrize("shares", [SHARES, (0.5, 0.5, 0.0), (0.98, 0.01, 0.01)], ids=["all", "one missing", "rare"])
def test_metrics_of_more_classes_equal_scikit_learns(shares):
    truth, odds = answers(400, 2, shares)
    found = values(multiclass(400, 2, shares=shares).metrics)
    assert found == pytest.approx(macro_expected(truth, odds.argmax(axis=1), odds), rel=0, abs=1e-12)


def test_a_class_that_nobody_has_is_no_recall_of_zero():
    truth = np.array(["a", "b"] * 100, dtype=object)
    said = np.where(np.arange(200) == 7, "c", truth)
    found = measure(Output("multiclass", "y", ("a", "b", "c")), truth, said, None, (truth, None)).metrics
    assert found["macro_recall"].value == pytest.approx(0.995) and found["macro_recall"].high > 0.995
    assert found["macro_precision"].high > 0.7  # one claim that failed says little about the next


def test_the_area_over_all_classes_is_scikit_learns():
    truth, odds = answers(400)
    found = multiclass(400).metrics["macro_roc_auc"].value
    assert found == pytest.approx(sk.roc_auc_score(truth, odds, multi_class="ovr", average="macro"), abs=1e-12)


@pytest.mark.parametrize("offset", [0, 1e6])
def test_metrics_of_numbers_equal_scikit_learns(offset):
    rng = np.random.default_rng(4)
    truth = rng.gamma(2, 10, 801) + offset
    said = truth + rng.normal(1, 5, 801)
    found = values(measure(Output("regression", "y"), truth, said, None, (said, None)).metrics)
    expected = {
        "mae": sk.mean_absolute_error(truth, said),
        "median_ae": sk.median_absolute_error(truth, said),
        "rmse": sk.root_mean_squared_error(truth, said),
        "r2": sk.r2_score(truth, said),
    }
    assert found == pytest.approx(expected, rel=1e-12)


# --- variances -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decimals", [8, 1], ids=["distinct", "tied"])
def test_the_pulls_on_the_area_are_delongs_variance(decimals):
    rng = np.random.default_rng(0)
    truth, scores = rng.random(60) < 0.4, rng.normal(size=60).round(decimals)
    up, down = scores[truth], scores[~truth]
    wins = (up[:, None] > down) + 0.5 * (up[:, None] == down)
    variance = wins.mean(axis=1).var(ddof=1) / len(up) + wins.mean(axis=0).var(ddof=1) / len(down)
    area, pull = roc_auc(truth, scores)
    assert (area, pull @ pull) == pytest.approx((wins.mean(), variance), rel=1e-12)


@pytest.mark.parametrize("decimals", [8, 1], ids=["distinct", "tied"])
def test_the_pulls_on_average_precision_are_its_derivatives(decimals):
    rng = np.random.default_rng(1)
    truth, scores = rng.random(40) < 0.4, rng.normal(size=40).round(decimals)
    _, pull = average_precision(truth, scores)
    assert abs(pull.sum()) < 1e-12
    for row in range(40):
        ends = [np.ones(40), np.ones(40)]
        ends[0][row] += 1e-5
        ends[1][row] -= 1e-5
        above, below = (sk.average_precision_score(truth, scores, sample_weight=w) for w in ends)
        assert pull[row] == pytest.approx((above - below) / 2e-5, abs=1e-7)


def test_the_matrix_product_is_the_plain_bootstrap():
    rng = np.random.default_rng(2)
    loss = rng.gamma(2, 1, 300)
    found = bootstrap([np.ones(300), loss], 300, lambda s: {"mean": s[..., 1] / s[..., 0]}, seed=5)["mean"]
    draws = np.random.default_rng(5)
    means = [loss[draws.integers(0, 300, 300)].mean() for _ in range(1000)]
    assert (found.value, found.low, found.high) == pytest.approx((loss.mean(), *np.quantile(means, (0.025, 0.975))))


def test_blocks_tell_as_much_as_rows():
    rows = 10 * BLOCKS + 7
    loss = np.sort(np.random.default_rng(3).gamma(0.5, 1, rows))  # sorted: neighbours must not share a block
    found = bootstrap([np.ones(rows), loss], rows, lambda s: {"mean": s[..., 1] / s[..., 0]}, seed=0)["mean"]
    assert found.value == pytest.approx(loss.mean())
    assert found.high - found.low == pytest.approx(2 * norm.isf(0.025) * loss.std() / math.sqrt(rows), rel=0.1)


def test_a_share_is_wilsons():
    found = share(8, 10)  # the textbook example
    assert (found.low, found.value, found.high) == pytest.approx((0.4902, 0.8, 0.9433), abs=1e-4)


# --- intervals hold what they promise --------------------------------------------------------------------------------


@cache
def coverage(task, rows, sets=400):
    "How often each metric's interval holds the value of 300,000 rows"
    make = MAKE[task]
    true = make(300_000, seed=9999).metrics
    reports = [make(rows, seed).metrics for seed in range(sets)]
    return {name: np.mean([r[name].low <= true[name].value <= r[name].high for r in reports]) for name in true}


EACH = [
    *((task, name) for task, names in {
        "binary": ("roc_auc", "average_precision", "log_loss", "brier", "accuracy", "precision", "recall", "f1"),
        "multiclass": (
            "log_loss", "macro_roc_auc", "macro_precision", "macro_recall", "macro_f1", "accuracy",
        ),
        "regression": ("mae", "median_ae", "rmse", "r2"),
    }.items() for name in names)
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), EACH)
def test_95_of_100_intervals_hold_the_truth(task, name):
    assert 0.92 <= coverage(task, 400)[name] <= 0.98


@pytest.mark.slow
def test_over_few_rows_the_interval_of_rmse_is_a_little_narrow():
    assert 0.87 <= coverage("regression", 60)["rmse"] <= 0.93


@pytest.mark.slow
def test_the_bounds_of_the_calibration_error_hold_it_at_least_as_often():
    assert coverage("binary", 400)["calibration_error"] >= 0.95  # the model is exactly right: the hardest case


@pytest.mark.slow
def test_intervals_hold_where_a_model_makes_almost_no_mistakes():
    options = {"shares": SHARES, "sharp": 4.0}
    true = multiclass(300_000, 9999, **options).metrics
    reports = [multiclass(400, seed, **options).metrics for seed in range(200)]
    for name in ("macro_precision", "macro_recall", "macro_f1", "macro_roc_auc", "accuracy"):
        held = np.mean([r[name].low <= true[name].value <= r[name].high for r in reports])
        assert held >= 0.92, (name, held)


@pytest.mark.slow
@pytest.mark.parametrize("task", MAKE)
def test_slices_that_are_alike_are_seldom_called_worse(task):
    def alarm(seed):
        labels = np.random.default_rng(seed + 10_000).integers(0, 10, 1200)
        return any(s.worse for s in MAKE[task](1200, seed, slices={"group": labels}).slices)

    assert np.mean([alarm(seed) for seed in range(80)]) <= 0.05


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_slice_that_is_worse_is_found(task):
    labels = np.random.default_rng(1).integers(0, 10, 4000)
    options = {"binary": {"skill": np.where(labels == 3, 0.3, 1)}, "regression": {"scale": np.where(labels == 3, 2, 1)}}
    report = MAKE[task](4000, slices={"group": labels}, **options[task])
    assert [s.value for s in report.slices if s.worse] == ["3"]


def test_better_is_never_called_worse():
    labels = np.random.default_rng(1).integers(0, 10, 4000)
    report = regression(4000, slices={"group": labels}, scale=np.where(labels == 3, 0.2, 1))
    assert not any(s.worse for s in report.slices)


# --- slices ----------------------------------------------------------------------------------------------------------


def test_values_come_in_their_order_and_missing_last():
    labels = np.array([10, 9.0, None, "x", "b", True, 2.5, float("nan")] * 100, dtype=object)
    report = regression(800, slices={"mixed": labels})
    assert [s.value for s in report.slices] == ["True", "2.5", "9", "10", "b", "x", "(missing)"]
    assert [s.rows for s in report.slices] == [100] * 6 + [200]


@pytest.mark.parametrize(
    "labels",
    [np.array(["a", "b"] * 100), np.array(["a", "b"] * 100, dtype=object), np.tile([False, True], 100)],
    ids=["text", "object", "boolean"],
)
def test_any_array_of_labels_makes_slices(labels):
    report = binary(200, slices={"column": labels})
    assert [s.rows for s in report.slices] == [100, 100]


def test_a_slice_is_measured_like_its_rows_alone():
    labels = np.array(["a", "b"] * 300, dtype=object)
    rng = np.random.default_rng(0)
    truth, said = rng.normal(size=600), rng.normal(size=600)
    output, zeros = Output("regression", "y"), np.zeros(600)
    report = measure(output, truth, said, None, (zeros, None), {"column": labels})
    rows = labels == "b"
    alone = measure(output, truth[rows], said[rows], None, (zeros[rows], None))
    assert report.slices[1].metrics == alone.metrics


def test_small_and_one_sided_slices_are_not_judged():
    labels = np.array(["tiny"] * 49 + ["one class"] * 200 + ["few"] * 300 + ["rest"] * 451, dtype=object)
    truth = np.array([0, 1] * 24 + [0] + [0] * 200 + [1] * 9 + [0] * 291 + [0, 1] * 225 + [1])
    scores = np.random.default_rng(0).random(1000)
    output = Output("binary", "y", (0, 1), 1)
    zeros = np.zeros(1000, dtype=int)
    report = measure(output, truth, zeros, np.column_stack([1 - scores, scores]), (zeros, None), {"kind": labels})
    found = {s.value: s for s in report.slices}
    assert found["tiny"].note == "not judged: fewer than 50 rows"
    assert found["tiny"].metrics == {}
    assert found["one class"].note == found["few"].note == "not judged: fewer than 10 rows of 1"
    assert list(found["one class"].metrics) == ["log_loss", "brier", "calibration_error", "accuracy"]
    assert found["rest"].note == ""
    assert "roc_auc" in found["rest"].metrics


def test_the_only_slice_is_not_worse_where_its_interval_holds_the_overall_value():
    overall, held, below = Estimate(0.9, 0.88, 0.92), Estimate(0.8, 0.7, 0.91), Estimate(0.8, 0.7, 0.89)
    only = [SliceReport("g", "a", 80, {"roc_auc": e}) for e in (held, below)]
    assert [_compared([s], "roc_auc", overall)[0].worse for s in only] == [False, True]


def test_other_slices_do_not_change_a_slice():
    labels = np.array(["a", "b"] * 300, dtype=object)
    one = multiclass(600, slices={"first": labels})
    two = multiclass(600, slices={"second": np.arange(600) % 3, "first": labels})
    assert one.slices == two.slices[3:]
    assert one.metrics == two.metrics


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (np.arange(400), "column has 400 values, too many for slices; cut it into bands first"),
        (np.zeros(399), r"the slice column column has shape \(399,\) but there are 400 rows"),
        (np.zeros((400, 2)), r"the slice column column has shape \(400, 2\) but there are 400 rows"),
    ],
)
def test_slices_that_cannot_be_made_are_refused(labels, sentence):
    with pytest.raises(BadAnswers, match=sentence):
        regression(400, slices={"column": labels})


# --- what is absent, what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("only", [0, 1])
@pytest.mark.parametrize("rows", [1, 2, 30])
def test_one_class_alone_has_no_area(only, rows):
    scores = np.linspace(0.1, 0.9, rows)
    truth = np.full(rows, only)
    said = (scores >= 0.5).astype(int)
    report = measure(Output("binary", "y", (0, 1), 1), truth, said, np.column_stack([1 - scores, scores]), (said, None))
    assert {"roc_auc", "average_precision"}.isdisjoint(report.metrics)
    assert "accuracy" in report.metrics
    assert report.primary in report.metrics
    assert all(math.isfinite(v) for v in flat(report).values())
    assert report.curves["roc"] == []


def test_without_probabilities_the_decisions_are_measured():
    said = np.array(["a", "b", "b"] * 20, dtype=object)
    report = measure(Output("binary", "y", ("a", "b"), "b"), said[::-1], said, None, (said, None))
    assert list(report.metrics) == ["accuracy", "precision", "recall", "f1"]
    assert report.primary == "f1"


def test_constant_predictions():
    found = binary(500).baseline
    assert values(found)["roc_auc"] == 0.5
    assert "precision" not in found
    assert found["recall"].value == found["f1"].value == 0
    numbers = regression(500).baseline
    assert numbers["r2"].value <= 0


def test_a_truth_that_does_not_vary_has_no_r2():
    found = measure(Output("regression", "y"), np.full(9, 3.0), np.arange(9.0), None, (np.zeros(9), None)).metrics
    assert list(found) == ["mae", "median_ae", "rmse"]


def test_perfect_answers_do_not_claim_certainty():
    truth = np.array([0, 1, 2] * 20)
    report = measure(Output("multiclass", "y", (0, 1, 2)), truth, truth, np.eye(3)[truth], (truth, None))
    for name in ("accuracy", "macro_precision", "macro_recall", "macro_f1", "macro_roc_auc"):
        assert report.metrics[name].value == report.metrics[name].high == 1
        assert 0.8 < report.metrics[name].low < 1, name


def test_a_truth_that_hardly_varies_has_a_finite_r2():
    truth = np.array([0.0] * 39 + [1.0])  # a third of the resamples do not vary
    found = measure(Output("regression", "y"), truth, truth + 0.1, None, (truth, None)).metrics["r2"]
    assert math.isfinite(found.low) and math.isfinite(found.high)
    assert found.value == pytest.approx(sk.r2_score(truth, truth + 0.1))


def test_a_truth_too_close_to_zero_to_be_squared_has_no_r2():
    truth = np.array([1e-300, 2e-300, -1e-300] * 20)
    numbers = flat(measure(Output("regression", "y"), truth, truth * 1.1, None, (truth * 0, None)))
    assert "r2" not in numbers and all(map(math.isfinite, numbers.values()))


def two(truth=(0, 1), said=(0, 1), probabilities=((1, 0), (0, 1)), classes=(0, 1), positive=1):
    return (
        Output("binary", "y", classes, positive),
        np.array(truth),
        np.array(said),
        np.array(probabilities, dtype=float),
    )


def number(truth, said):
    return Output("regression", "y"), np.array(truth), np.array(said), None


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (two(probabilities=((NAN, 0), (0, 1))), "row 0 of the probabilities is not a finite number"),
        (two(probabilities=((1, 0), (INF, 1))), "row 1 of the probabilities is not a finite number"),
        (two(probabilities=((1, 0), (0.6, 0.6))), "row 1 of the probabilities is not a distribution"),
        (two(probabilities=((1.5, -0.5), (0, 1))), "row 0 of the probabilities is not a distribution"),
        (two(probabilities=((1, 0),)), "must be 2 rows of 2, one a class"),
        (two(probabilities=(0, 1)), "must be 2 rows of 2, one a class"),
        (two(said=(0, 1, 1)), r"the truth has shape \(2,\) and the predictions \(3,\)"),
        (two(truth=((0, 1),), said=((0, 1),)), r"the truth has shape \(1, 2\)"),
        (two(truth=(0, 2)), "row 1 of the truth is 2, but the classes are 0, 1"),
        (two(said=("0", "1")), "row 0 of the predictions is '0', but the classes are 0, 1"),
        (two(truth=(NAN, 1)), "row 0 of the truth is nan, but"),
        (two(truth=(), said=()), "no held-out rows"),
        (two(positive=2), "the positive class 2 is not among the classes"),
        (number([1.0, NAN], [1.0, 2.0]), "row 1 of the truth is not a finite number"),
        (number([1.0, 2.0], [INF, 2.0]), "row 0 of the predictions is not a finite number"),
        (number([1.0, 2.0], [1.0, 1e200]), "row 1 of the predictions is not a finite number"),
        (number([1.0, 2.0], ["a", "b"]), "the predictions must be numbers"),
        (number([1.0, 2.0], ["1", "2"]), "the predictions must be numbers"),
        (number([1.0, 2.0], [1j, 2j]), "the predictions must be numbers"),
        ((Output("regression", "y"), np.array([1, "2"], object), np.zeros(2), None), "the truth must be numbers"),
        ((Output("regression", "y"), np.array([1, None], object), np.zeros(2), None), "the truth must be numbers"),
        ((Output("regression", "y"), np.array([1, 10**400]), np.zeros(2), None), "the truth hold a number that is too"),
        (number([1.0, 2.0], [1.0]), "send one each a row"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_sentence(given, sentence):
    output, truth, said, probabilities = given
    with pytest.raises(BadAnswers, match=sentence) as caught:
        measure(output, truth, said, probabilities, (truth, None))
    assert "\n" not in str(caught.value)
    assert (caught.value.status, caught.value.exit_code) == (422, 4)


def test_a_wrong_baseline_is_named_as_such():
    with pytest.raises(BadAnswers, match="the baseline's predictions"):
        measure(*number([1.0, 2.0], [1.0, 2.0]), (np.array([1.0]), None))


# --- files -----------------------------------------------------------------------------------------------------------


def sliced(task, rows=600):
    labels = np.random.default_rng(0).choice(["left", "right", "$x_1$\n\tup", ""], size=rows, p=[0.5, 0.3, 0.15, 0.05])
    return MAKE[task](rows, slices={"side": labels, "number": np.arange(rows) % 2})


@pytest.mark.parametrize("task", MAKE)
def test_a_report_can_be_stored_and_read_back(task):
    report = sliced(task)
    text = json.dumps(as_dict(report), allow_nan=False)
    assert from_dict(json.loads(text)) == report
    assert len(text) < 60_000


def test_a_report_of_many_rows_is_as_small():
    small, large = (len(json.dumps(as_dict(binary(rows)))) for rows in (2_000, 200_000))
    assert large < 1.3 * small


@pytest.mark.parametrize("data", [{}, [], {"output": {}}, {**as_dict(regression(60)), "more": 1}])
def test_what_is_no_report_is_refused(data):
    with pytest.raises(BadReport, match="mlserve evaluate"):
        from_dict(data)


@pytest.mark.parametrize("task", MAKE)
def test_metrics_are_flat_finite_and_in_order(task):
    report = sliced(task)
    found = flat(report)
    assert all(type(v) in (int, float) and math.isfinite(v) for v in found.values())
    assert list(found) == list(flat(from_dict(as_dict(report))))
    assert list(found)[:4] == ["rows", *(next(iter(report.metrics)) + end for end in ("", "_low", "_high"))]
    assert found["slice/side=left/rows"] > 50
    assert f"slice/side=left/{report.primary}" in found
    assert f"baseline_{report.primary}" in found


@pytest.mark.parametrize("task", MAKE)
def test_each_slice_is_one_line_with_aligned_columns(task):
    report = sliced(task)
    head, *lines = slice_text(report).splitlines()
    assert len(lines) == 1 + len(report.slices)
    wanted = {"binary": ["precision", "recall", "f1"], "multiclass": ["macro_f1"], "regression": ["mae", "rmse"]}[task]
    assert head.split()[:3] == ["column", "value", "rows"]
    for name in ("rows", *wanted):
        end = head.index(f"{name} ") + len(name)
        assert all(line[end - 1] != " " and line[end : end + 2] == "  " for line in lines if len(line) > end), name
    assert [int(line.split("  ")[0] == "side") for line in lines].count(1) == 4


def test_a_repeated_measurement_gives_the_same_report():
    assert binary(500) == binary(500)


def test_every_metric_has_a_label_and_a_direction():
    assert set(LABELS) == set(BETTER)
    assert set(BETTER.values()) == {"higher", "lower"}
    for task, names in PRIMARY.items():
        assert MAKE[task](300).primary == names[0]
        assert set(MAKE[task](300).metrics) <= set(LABELS)


@pytest.mark.parametrize(("value", "text"), [(0.123456, "0.1235"), (84469.4, "84,469"), (-1500.2, "-1,500"), (0, "0")])
def test_numbers_for_people(value, text):
    assert as_text(value) == text


# --- cost ------------------------------------------------------------------------------------------------------------


def cpu_of(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def test_a_report_with_slices_costs_less_than_ten_bootstraps():
    rng = np.random.default_rng(0)
    labels = {f"column {k}": rng.integers(0, 7, 6500) for k in range(3)}
    columns = rng.random((3, 6500))

    def ten():
        for seed in range(10):
            bootstrap(columns, 6500, lambda sums: {"mean": sums[..., 0]}, seed)

    assert cpu_of(lambda: binary(6500, slices=labels)) < cpu_of(ten)  # about a third


def test_memory_does_not_grow_with_resamples():
    rows = 200_000
    tracemalloc.start()
    try:
        regression(rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * 8 * rows  # forty numbers a row; a thousand resamples would be a thousand
