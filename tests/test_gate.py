"The gate's arithmetic is that of the literature, and it decides as it says."

import json
import random
from math import exp, isclose, log, sqrt
from pathlib import Path
from statistics import fmean, stdev

import pytest

from mlserve.contract import Output
from mlserve.gate import (
    HOLD,
    MORE,
    PROMOTE,
    UNJUDGED,
    BadDuel,
    Budget,
    Paired,
    as_duel,
    as_markdown,
    budgets,
    decide,
    loss_pair,
    not_worse,
    pairs,
    ranking,
    rows_needed,
)
from mlserve.settings import Gate

BINARY = Output("binary", "rich", (False, True), positive=True)
THREE = Output("multiclass", "kind", ("a", "b", "c"))
NUMBER = Output("regression", "price")


def binary(rows, loss=0.0, seed=0, noise=0.3):
    chance, truth, old, new = random.Random(seed), [], [], []
    for _ in range(rows):
        yes, shared = chance.random() < 0.3, chance.gauss(0, 1)
        truth.append(yes)
        for answers, skill in ((old, 1.5), (new, 1.5 - loss)):
            seen = skill * yes + sqrt(1 - noise**2) * shared + noise * chance.gauss(0, 1)
            p = 1 / (1 + exp(-(skill * seen - skill**2 / 2 + log(3 / 7))))
            answers.append((1 - p, p))
    return truth, old, new


def three(rows, worse=0.0, seed=0):
    chance, truth, old, new = random.Random(seed), [], [], []
    for _ in range(rows):
        k = chance.choice((0, 0, 1, 2))
        truth.append("abc"[k])
        shared = [chance.gauss(0, 1) for _ in range(3)]
        for answers, skill in ((old, 2.0), (new, 2.0 - worse)):
            odds = [exp(s + 0.1 * chance.gauss(0, 1) + skill * (i == k)) for i, s in enumerate(shared)]
            answers.append(tuple(o / sum(odds) for o in odds))
    return truth, old, new


def numbers(rows, worse=0.0, seed=0):
    chance = random.Random(seed)
    truth = [chance.gauss(100, 20) for _ in range(rows)]
    shared = [chance.gauss(0, 5) for _ in range(rows)]
    old = [t + s + chance.gauss(0, 1) for t, s in zip(truth, shared, strict=True)]
    new = [t + s * (1 + worse) + chance.gauss(0, 1) for t, s in zip(truth, shared, strict=True)]
    return truth, old, new


MAKE = {"binary": (BINARY, binary, 0.3), "multiclass": (THREE, three, 0.3), "regression": (NUMBER, numbers, 0.2)}


def delong_by_pairs(scores, of_class):
    "The definition: every pair is looked at"
    inside = [s for s, c in zip(scores, of_class, strict=True) if c]
    outside = [s for s, c in zip(scores, of_class, strict=True) if not c]
    won = [[(a > b) + (a == b) / 2 for b in outside] for a in inside]
    rows, columns = [fmean(w) for w in won], [fmean(w[j] for w in won) for j in range(len(outside))]
    return fmean(rows), rows, columns


@pytest.mark.parametrize("seed", range(20))
def test_the_variance_is_delongs(seed):
    chance = random.Random(seed)
    of_class = [chance.random() < 0.4 for _ in range(60)] + [True, True, False, False]
    one = [round(chance.gauss(c, 1), 1) for c in of_class]  # rounded, so that there are ties
    other = [round(s + chance.gauss(0, 0.5), 1) for s in one]
    (area, pull), (area_other, pull_other) = ranking(one, of_class), ranking(other, of_class)
    a, b = delong_by_pairs(one, of_class), delong_by_pairs(other, of_class)
    assert isclose(area, a[0]) and isclose(area_other, b[0])
    variance = sum(stdev([x - y for x, y in zip(a[side], b[side], strict=True)]) ** 2 / len(a[side]) for side in (1, 2))
    ours = sum((x - y) ** 2 for x, y in zip(pull, pull_other, strict=True)) / len(one) ** 2
    assert isclose(ours, variance)


def test_the_ratio_of_two_losses_has_the_error_that_resampling_finds():
    chance = random.Random(0)
    old = [chance.expovariate(1) for _ in range(400)]
    new = [loss * chance.uniform(0.5, 1.7) for loss in old]
    pair = loss_pair("log_loss", old, new)
    ratios = []
    for _ in range(400):
        rows = chance.choices(range(400), k=400)
        ratios.append(log(sum(new[i] for i in rows) / sum(old[i] for i in rows)))
    assert isclose(pair.error, stdev(ratios), rel_tol=0.15)
    assert isclose(loss_pair("rmse", old, new, half=True).worse, pair.worse / 2)


@pytest.mark.parametrize("task", MAKE)
def test_equal_models_pass_and_worse_ones_do_not(task):
    output, make, worse = MAKE[task]
    rules = Gate(loss_margin=0.05)
    assert decide(output, *make(4_000), {}, rules).decision == PROMOTE
    assert decide(output, *make(4_000, worse), {}, rules).decision == HOLD


@pytest.mark.parametrize("task", MAKE)
def test_few_rows_say_how_many_would_do_and_those_do(task):
    output, make, _ = MAKE[task]
    rules = Gate(loss_margin=0.02)
    few = [decide(output, *make(150, seed=s), {}, rules) for s in range(12)]
    asked = [v.needed for v in few if v.decision == MORE]
    assert len(asked) >= 6
    needed = sorted(asked)[len(asked) // 2]
    assert needed > 150
    passed = [bool(decide(output, *make(needed, seed=s), {}, rules)) for s in range(12)]
    assert sum(passed) >= 9


@pytest.mark.parametrize("task", MAKE)
def test_a_model_is_as_good_as_itself(task):
    output, make, _ = MAKE[task]
    truth, old, _ = make(60)
    verdict = decide(output, truth, old, old, {"all": [True] * 60}, Gate(support=10))
    compared = [r for r in verdict.reasons if r.rule == "metric" and r.needed is None]
    assert {r.decision for r in compared} <= {PROMOTE, UNJUDGED} and len(compared) >= 1


def test_a_class_too_rare_to_rank_is_not_enough_data():
    truth, old, _ = binary(300)
    rare = [t and i % 30 == 0 for i, t in enumerate(truth)]
    verdict = decide(BINARY, rare, old, old, {}, Gate())
    assert verdict.decision == MORE and verdict.needed > 300
    assert "a ranking needs 20" in next(r for r in verdict.reasons if r.decision == MORE).text


def test_of_several_classes_those_too_rare_to_rank_are_named():
    truth, old, _ = three(2_000)
    rare = ["a" if t == "c" and i % 40 else t for i, t in enumerate(truth)]
    reasons = decide(THREE, rare, old, old, {}, Gate()).reasons
    assert [(r.decision, r.text) for r in reasons if r.decision != PROMOTE] == [
        (UNJUDGED, f"the class c is not ranked: {rare.count('c')} rows, a ranking needs 20")
    ]


def test_rows_needed_by_the_book():
    # one-sided 3 % of the 5 %, power 90 %: (1.881 + 1.282)^2 x variance of a row / margin^2
    assert rows_needed(0.121 / sqrt(1_000), 1_000, 0.01, Gate()) == 1_465
    assert rows_needed(0.121 / sqrt(1_000), 1_000, 0.005, Gate()) == 5_857


def test_a_margin_of_nothing_asks_for_a_gain():
    rules = Gate(margin=0.0, loss_margin=0.0)
    assert decide(BINARY, *binary(3_000), {}, rules).decision == HOLD
    truth, old, new = binary(3_000, loss=0.4)
    assert decide(BINARY, truth, new, old, {}, rules).decision == PROMOTE


def test_the_best_model_so_far_ends_slow_decay():
    truth, old, slightly = binary(8_000, loss=0.1, noise=0.1)
    rules = Gate(margin=0.02, loss_margin=0.03)
    assert decide(BINARY, truth, slightly, slightly, {}, rules, best=old)
    strong = [(1 - p, p) for t, (_, p) in zip(truth, old, strict=True) for p in [min(1, p * 1.5) if t else p / 1.5]]
    held = decide(BINARY, truth, slightly, slightly, {}, rules, best=strong)
    assert held.decision == HOLD and {r.rule for r in held.reasons if r.decision == HOLD} == {"best"}


def harmed(rows, share=0.2, seed=0):
    "Wrong answers in a slice of the rows, and there alone"
    truth, old, new = binary(rows, seed=seed, noise=0.1)
    inside = [random.Random((seed + 1) * rows + i).random() < share for i in range(rows)]
    new = [(0.3 + 0.4 * a, 0.3 + 0.4 * b) if there else (a, b) for (a, b), there in zip(new, inside, strict=True)]
    return truth, old, new, {"group is a": inside, "group is b": [not i for i in inside]}


def test_a_harmed_slice_is_named_and_the_other_is_not():
    verdict = decide(BINARY, *harmed(4_000), Gate(margin=1.0, loss_margin=9.0))
    assert [r.subject for r in verdict.reasons if r.decision == HOLD] == ["group is a"]


def test_a_slice_without_support_is_neither_passed_nor_held():
    verdict = decide(BINARY, *harmed(4_000, share=0.04), Gate(margin=1.0, loss_margin=9.0))
    found = {r.subject: r.decision for r in verdict.reasons if r.rule == "slice"}
    assert found == {"group is a": UNJUDGED, "group is b": PROMOTE} and verdict


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_gap_that_opens_is_held_in_every_task(task):
    output, make, _ = MAKE[task]
    truth, old, new = make(3_000)
    inside = [i % 2 == 0 for i in range(3_000)]
    if task == "regression":
        new = [a + 8 * there for a, there in zip(new, inside, strict=True)]
    else:
        new = [
            (p[1], p[2], p[0]) if there and i % 3 == 0 else p
            for i, (p, there) in enumerate(zip(new, inside, strict=True))
        ]
    slices = {"even": inside, "odd": [not i for i in inside]}
    rules = Gate(margin=1.0, loss_margin=99.0, slice_margin=99.0)
    assert decide(output, truth, old, new, slices, rules)
    verdict = decide(output, truth, old, new, slices, rules, protected={"number": ("even", "odd")})
    assert [r.rule for r in verdict.reasons if r.decision == HOLD] == ["fairness"]


def test_a_gap_that_closes_is_welcome():
    truth, old, new, slices = harmed(4_000)
    rules = Gate(margin=1.0, loss_margin=99.0, slice_margin=99.0)
    assert decide(BINARY, truth, new, old, slices, rules, protected={"group": tuple(slices)})


@pytest.mark.parametrize("wild", [1e154, 1e200, -1e308])
@pytest.mark.parametrize("spoilt", [{0}, set(range(200))], ids=["one", "all"])
def test_answers_beyond_all_bounds_are_held_in_a_sentence(wild, spoilt):
    chance = random.Random(0)
    truth = [chance.gauss(0, 1) for _ in range(200)]
    old = [t + chance.gauss(0, 1) for t in truth]
    new = [wild if i in spoilt else t for i, t in enumerate(old)]
    half = [i < 100 for i in range(200)]
    slices = {"a": half, "b": [not h for h in half]}
    for champion in (old, truth):  # also one that is never wrong
        verdict = decide(NUMBER, truth, champion, new, slices, Gate(), protected={"c": ("a", "b")})
        assert not verdict
        assert max(len(reason.text) for reason in verdict.reasons) < 200
    assert decide(NUMBER, truth, new, old, slices, Gate()).decision in (PROMOTE, HOLD, MORE)


def test_budgets_are_held_against_their_limits():
    rules = Gate(latency_ms=5.0, memory_mb=100.0)
    measured = budgets(rules, latency_ms=4.0, size_mb=1.0, memory_mb=101.0)
    assert [b.name for b in measured] == ["latency", "size", "memory"]
    verdict = decide(NUMBER, *numbers(500), {}, Gate(loss_margin=0.5), measured)
    assert [r.text for r in verdict.reasons if r.decision == HOLD] == ["memory is 101 MB, allowed 100 MB"]
    unknown = [Budget("latency", float("nan"), 5.0, "ms")]
    assert decide(NUMBER, *numbers(500), {}, Gate(loss_margin=0.5), unknown).decision == HOLD


def test_not_worse_is_decided_by_the_ends_of_the_interval():
    def decision(worse, error, rows=1_000):
        return not_worse(Paired("roc_auc", 0.9, 0.9 - worse, worse, error, False), rows, Gate()).decision

    assert decision(0.0, 0.005) == PROMOTE
    assert decision(0.0, 0.007) == MORE
    assert decision(0.008, 0.003) == HOLD  # enough rows, and still not shown
    assert decision(0.05, 0.02) == HOLD  # worse for certain, however few the rows
    assert decision(0.01, 0.0) == HOLD  # at the margin itself


@pytest.mark.parametrize(
    ("output", "truth", "old", "new", "said"),
    [
        (BINARY, [], [], [], "no held-out rows"),
        (BINARY, [True], [(0.5, 0.5)] * 2, [(0.5, 0.5)], "the champion gave 2 answers to 1 rows"),
        (BINARY, [True], [(0.5, 0.5)], [(0.5, 0.6)], "answer 0 of the challenger must be 2 probabilities"),
        (BINARY, [True], [(0.5, 0.5)], [0.5], "answer 0 of the challenger must be 2 probabilities"),
        (BINARY, [True], [(1.0,)], [(0.5, 0.5)], "answer 0 of the champion must be 2 probabilities"),
        (BINARY, ["maybe"], [(0.5, 0.5)], [(0.5, 0.5)], "have the class maybe, but the models know False, True"),
        (NUMBER, [1.0], [float("inf")], [1.0], "answer 0 of the champion must be a finite number"),
        (NUMBER, [None], [1.0], [1.0], "the true value of row 0 must be a finite number"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(output, truth, old, new, said):
    with pytest.raises(BadDuel, match=said) as refused:
        decide(output, truth, old, new, {}, Gate())
    assert "\n" not in str(refused.value)


def test_slices_must_fit_the_rows():
    truth, old, new = numbers(10)
    with pytest.raises(BadDuel, match="the slice s speaks of 9 rows, but there are 10"):
        decide(NUMBER, truth, old, new, {"s": [True] * 9}, Gate())
    with pytest.raises(BadDuel, match="name t, which is no slice"):
        decide(NUMBER, truth, old, new, {"s": [True] * 10}, Gate(), protected={"c": ("s", "t")})


def test_perfect_models_are_equal():
    verdict = decide(NUMBER, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], {}, Gate())
    assert verdict and "0 to 0" in verdict.reasons[0].text
    assert decide(NUMBER, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.5, 2.5, 3.5], {}, Gate()).decision == HOLD


def test_the_markdown_names_what_decided_first():
    verdict = decide(BINARY, *harmed(4_000), Gate(margin=1.0, loss_margin=9.0))
    lines = as_markdown(verdict).splitlines()
    assert lines[0].startswith("**hold**") and lines[4].startswith("| hold | slice | group is a")


def test_a_name_from_data_stays_in_its_cell():
    truth, old, new = binary(400)
    verdict = decide(BINARY, truth, old, new, {"city: a|b\n<script>": [True] * 400}, Gate())
    rows = as_markdown(verdict).split("|---|---|---|\n")[1].splitlines()
    assert len(rows) == len(verdict.reasons)
    assert "city: a\\|b &lt;script>" in as_markdown(verdict)


def test_every_task_is_compared_by_its_own_metrics():
    names = {task: [p.name for p in pairs(as_duel(output, *make(200)))] for task, (output, make, _) in MAKE.items()}
    assert names == {
        "binary": ["roc_auc", "log_loss"],
        "multiclass": ["roc_auc", "log_loss"],
        "regression": ["rmse", "mae"],
    }


RECORD = json.loads((Path(__file__).parent / "simulations.json").read_text())  # of `make simulate`


def test_in_the_record_models_worse_by_the_margin_are_promoted_no_more_often_than_stated():
    assert len(RECORD["gate errors"]) == 7
    for name, case in RECORD["gate errors"].items():
        assert case["runs"] >= 2_000 and case["promote"] <= Gate().error, name


def test_in_the_record_equal_models_pass_on_the_rows_that_were_asked_for():
    assert len(RECORD["gate power"]) == 2
    for name, case in RECORD["gate power"].items():
        assert case["runs"] >= 100 and case["promote"] >= Gate().power, name


def test_in_the_record_harmed_slices_are_held_and_unharmed_ones_are_not():
    for name, case in RECORD["gate slices"].items():
        if name.endswith("+0%"):
            assert case["hold"] <= Gate().error, name
        if name.endswith("+31%"):
            assert case["hold"] >= 0.8, name
    assert len(RECORD["gate slices"]) == 5


def test_in_the_record_the_best_model_so_far_bounds_the_decay_of_a_year():
    assert RECORD["gate creep"]["with the best"] <= 2 * Gate().margin < RECORD["gate creep"]["without the best"]
