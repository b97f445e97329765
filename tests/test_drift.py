"Quiet stays quiet, what moves is found and named, and odd days do no harm."

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mlserve.contract import Contract, Field, Output
from mlserve.drift import (
    LOOKS,
    Day,
    State,
    alarm_at,
    as_dict,
    as_markdown,
    bounds,
    conclude,
    drift,
    highest_mean,
    look,
    look_at,
    make_monitor,
    odds,
    odds_of,
    paid_by_losses,
)
from mlserve.reference import STEPS, count, from_json, make_reference, names, summarise
from mlserve.reference import as_dict as reference_dict
from mlserve.settings import Drift

RAIN = Output("binary", "rain", (False, True), positive=True)
KIND = Output("multiclass", "kind", ("a", "b", "c"))
PRICE = Output("regression", "price")
FIELDS = (Field("heat", "number"), Field("wind", "integer", nullable=True), Field("place", "category"))
RULES = Drift()


def world(output, rows, seed, heat=0.0, place=0.3, gone=0.1, turned=0.0):
    "Rows, answers and truth; the truth depends on heat, and for some is turned round"
    rng = np.random.default_rng(seed)
    columns = {
        "heat": rng.normal(heat, 1, rows).tolist(),
        "wind": [None if u < gone else int(v) for u, v in zip(rng.random(rows), rng.poisson(4, rows), strict=True)],
        "place": rng.choice(["sea", "hill"], rows, p=(place, 1 - place)).tolist(),
    }
    given = [dict(zip(columns, v, strict=True)) for v in zip(*columns.values(), strict=True)]
    warm = np.array(columns["heat"])
    chance, flip = 1 / (1 + np.exp(-2 * warm)), rng.random(rows) < turned
    if output.task == "regression":
        return given, warm.tolist(), (warm + rng.normal(0, 0.5 + 2 * turned, rows)).tolist()
    rain = (rng.random(rows) < chance) ^ flip
    if output.task == "binary":
        return given, [(1 - p, p) for p in chance.tolist()], rain.tolist()
    three = [(0.8 * (1 - p), 0.8 * p, 0.2) for p in chance.tolist()]
    other = rng.random(rows) < 0.2
    return given, three, ["c" if o else "b" if r else "a" for o, r in zip(other, rain.tolist(), strict=True)]


def reference_for(output, rows=2_000, seed=0):
    given, answers, truth = world(output, rows, seed)
    columns = {f.name: [row[f.name] for row in given] for f in FIELDS}
    return make_reference(Contract(FIELDS, output), columns, truth, truth[: rows // 4], answers[: rows // 4])


def day(output, rows, seed, **moved):
    given, answers, truth = world(output, rows, seed, **moved)
    return Day(given, answers, list(zip(answers, truth, strict=True)))


def found(output, moved, days=20, rows=200):
    quiet = [day(output, rows, [1, k]) for k in range(10)]
    after = [day(output, rows, [2, k], **moved) for k in range(days)]
    return drift(reference_for(output), output, [*quiet, *after], RULES)


@pytest.mark.parametrize("output", [RAIN, KIND, PRICE], ids=lambda o: o.task)
def test_quiet_days_stay_quiet_and_moved_ones_are_found(output):
    assert not found(output, {})
    warmer = found(output, {"heat": 1.0})
    assert {f.question for f in warmer.findings if f.moved} >= {"covariate", "prediction", "label"}
    assert [m.column for m in warmer.findings[0].movements] == ["heat"]
    assert all(f.since > 10 for f in warmer.findings if f.moved)


@pytest.mark.parametrize("output", [RAIN, KIND, PRICE], ids=lambda o: o.task)
def test_a_truth_that_turns_is_found_by_the_loss_alone(output):
    turned = found(output, {"turned": 0.4})
    moved = {f.question: f for f in turned.findings if f.moved}
    assert "concept" in moved and not {"covariate", "prediction"} & set(moved)
    assert moved["concept"].movements[0].now > moved["concept"].movements[0].before


@pytest.mark.parametrize(
    ("moved", "column", "about"),
    [
        ({"place": 0.6}, "place", "place is"),
        ({"gone": 0.4}, "wind", "wind is missing"),
        ({"heat": 9.0}, "heat", "heat is"),
    ],
)
def test_the_share_that_moved_is_named(moved, column, about):
    first = found(RAIN, moved, days=8).findings[0].movements[0]
    assert first.column == column and first.about.startswith(about) and abs(first.now - first.before) > 0.1


@pytest.mark.parametrize("after", [1, 3, 12])
def test_a_share_is_told_as_it_is_since_it_moved(after):
    "However few of the last looks came after the move"
    movement = found(RAIN, {"place": 0.7}, days=after).findings[0].movements[0]
    told = movement.now if movement.about == "place is sea" else 1 - movement.now
    assert movement.column == "place" and movement.lasts
    assert abs(told - 0.7) < 3 * math.sqrt(0.7 * 0.3 / 200)  # of which at least one look's 200 rows tell


def test_a_share_that_went_back_is_told_so():
    moved = [day(RAIN, 200, [2, k], place=0.7) for k in range(4)]
    quiet = [day(RAIN, 200, [1, k]) for k in range(10)]
    seen = drift(reference_for(RAIN), RAIN, [*quiet, *moved, *quiet], RULES).findings[0]
    assert seen.moved and seen.since == 11 and seen.text.endswith("no longer show it")
    assert seen.movements[0].about == "place is hill" and not seen.movements[0].lasts
    assert abs(seen.movements[0].now - 0.7) < 3 * math.sqrt(0.7 * 0.3 / 1400)


def test_looks_that_bring_no_truth_leave_what_was_told_of_it():
    turned = [day(RAIN, 200, [2, k], turned=0.4) for k in range(10)]
    silent = [Day(d.rows, d.answers) for d in (day(RAIN, 50, [3, k]) for k in range(9))]
    reference = reference_for(RAIN)
    before, after = (drift(reference, RAIN, days, RULES).findings for days in (turned, [*turned, *silent]))
    assert after[3].movements[0].now == before[3].movements[0].now > after[3].movements[0].before


def test_a_level_never_seen_is_found_as_new():
    reference = reference_for(RAIN)
    given, answers, _ = world(RAIN, 300, 1)
    days = [Day([row | {"place": "moon"} if i % 5 == 0 else row for i, row in enumerate(given)], answers)] * 4
    movement = drift(reference, RAIN, days, RULES).findings[0].movements[0]
    assert movement.about in ("place is new", "place is hill") and movement.odds > alarm_at(RULES)
    counted, of = count("category", ("sea",), ["moon", None, "sea"])
    assert (counted, of) == ([1, 1, 1], [2, 2, 3])


@pytest.mark.parametrize("rows", [30, 150])
def test_hardly_a_year_without_drift_has_an_alarm(rows):
    "A small version of `make simulate`, with a reference of 200 rows"
    alarms = 0
    for run in range(6):
        monitor, state = make_monitor(reference_for(RAIN, 200, seed=run), RAIN, RULES), State()
        for k in range(60):
            state = look(monitor, state, day(RAIN, rows, [run, k]))
        alarms += bool(state.found)
    assert alarms == 0  # a chance of less than 0.05 a run and year, here a sixth of one


def test_no_bet_is_expected_to_win_while_shares_are_within_bounds():
    rng = np.random.default_rng(0)
    for share, of in zip(rng.random(200), rng.integers(1, 5_000, 200), strict=True):
        hits = rng.binomial(of, share)
        low, high = bounds(np.array([hits]), np.array([of]), RULES)
        hit, miss = odds(low, high)
        for p in (max(low[0], 0), min(high[0], 1)):
            assert (
                p * np.exp(hit[0 if p == high[0] else 1]) + (1 - p) * np.exp(miss[0 if p == high[0] else 1])
            ).max() < 1 + 1e-9
        assert low[0] <= hits / of - RULES.tolerance and high[0] >= hits / of + RULES.tolerance


def test_no_bet_on_the_loss_is_expected_to_win_at_its_bound():
    lost = np.array([0.0] * 8 + [1.0] * 2)
    pays = np.exp([paid_by_losses(np.array([x]), 0.2) for x in lost]).mean(axis=0)
    assert np.allclose(pays, 1)


@pytest.mark.parametrize("rows", [40, 200, 5_000])
def test_the_highest_mean_is_seldom_too_low(rows):
    rng, low = np.random.default_rng(rows), 0
    for _ in range(200):
        lost = np.ceil(rng.beta(0.4, 2, rows) * STEPS).astype(int)
        low += highest_mean(np.bincount(lost, minlength=STEPS + 1), 0.05) < 0.4 / 2.4
    assert low <= 10


def test_a_year_clears_the_table_and_keeps_what_was_found():
    monitor = make_monitor(reference_for(RAIN), RAIN, RULES)
    state = look(monitor, State(), day(RAIN, 200, 0, heat=3.0))
    state = look(monitor, state, day(RAIN, 200, 1, heat=3.0))
    assert state.found and odds_of(monitor, state.wealth, "covariate") > 100
    old = State(LOOKS, state.rows, state.labels, state.wealth, state.recent, state.found)
    new = look(monitor, old, Day())
    assert odds_of(monitor, new.wealth, "covariate") == pytest.approx(-math.log(LOOKS)) and new.found == state.found


def test_empty_days_and_single_rows_do_no_harm():
    monitor, state = make_monitor(reference_for(RAIN), RAIN, RULES), State()
    for k in range(30):
        state = look(monitor, state, Day() if k % 2 else day(RAIN, 1, k))
    assert not conclude(monitor, state) and state.rows == 15
    nothing = drift(reference_for(RAIN), RAIN, [], RULES)
    assert not nothing and nothing.looks == 0


def test_without_feedback_half_of_the_questions_stay_open():
    given, answers, _ = world(RAIN, 100, 3)
    result = drift(reference_for(RAIN), RAIN, [Day(given, answers)], RULES)
    said = {f.question: f.text for f in result.findings}
    assert said["label"] == said["concept"] == "not known: no feedback has come yet"


def test_drift_is_said_to_people_and_programs():
    result = found(RAIN, {"heat": 1.0}, days=6)
    assert as_markdown(result).startswith("**moved: covariate")
    stored = json.loads(json.dumps(as_dict(result)))
    assert stored["drift"] and stored["findings"][0]["movements"][0]["column"] == "heat"


def test_every_kind_of_field_is_counted():
    dates = summarise("day", "date", ["2026-01-01", "2026-01-03T12:00:00", None])
    assert names(dates)[1] == "day is at most 2026-01-01" and dates.hits[-1] == 1
    texts = summarise("note", "text", ["a", "bbb", None])
    assert names(texts)[1] == "the length of note is at most 1"
    yes = summarise("sunny", "boolean", [True, False, True, None])
    assert yes.marks == (False, True) and yes.hits == (1, 2, 0, 1)
    empty = summarise("none", "number", [None, None])
    assert empty.hits == (2,)


def test_a_reference_survives_its_file():
    for output in (RAIN, KIND, PRICE):
        reference = reference_for(output, 300)
        assert from_json(json.dumps(reference_dict(reference)).encode()) == reference


def test_every_bundle_carries_its_reference(project):
    from mlserve.bundle import find_bundle, read_bundle

    bundle = read_bundle(find_bundle(project / "models"))
    reference = from_json(bundle.read("reference.json"))
    assert [s.name for s in reference.fields] == list(bundle.contract.names)
    assert sum(reference.losses) == bundle.manifest.lineage.held_out
    assert not drift(reference, bundle.contract.output, [Day()], RULES)


RECORD = json.loads((Path(__file__).parent / "simulations.json").read_text())  # of `make simulate`


def test_in_the_record_quiet_years_have_alarms_no_more_often_than_stated():
    assert len(RECORD["drift errors"]) == 6
    for name, case in RECORD["drift errors"].items():
        assert case["runs"] >= 60 and case["false alarms a year"] <= RULES.error, name


@pytest.mark.parametrize(
    "kind", ["covariate:0.02", "label:1.35", "concept:0.4", "unit:100", "vocabulary:0.05", "missing:0.1"]
)
def test_in_the_record_shifts_are_found_within_a_month_of_500_rows_a_day(kind):
    assert RECORD["drift power"][f"{kind}, 500 rows a day"]["found in 30 days"] >= 0.8


def test_a_day_may_come_in_parts():
    given, answers, truth = world(RAIN, 101, 0, heat=0.3)
    pairs, monitor = list(zip(answers, truth, strict=True)), make_monitor(reference_for(RAIN), RAIN, RULES)
    cuts = (slice(0, 40), slice(40, 40), slice(40, None))
    whole = look(monitor, State(), Day(given, answers, pairs))
    parts = look_at(monitor, State(), (Day(given[c], answers[c], pairs[c]) for c in cuts))
    assert (whole.looks, whole.rows, whole.labels) == (parts.looks, parts.rows, parts.labels) == (1, 101, 101)
    assert all(np.allclose(whole.wealth[q], parts.wealth[q]) for q in whole.wealth)
