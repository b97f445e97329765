"The calendar of the census data holds, and a drift changes what it says and nothing else."

import numpy as np
import pandas as pd
import pytest

from mlserve.data import make_table
from mlserve.examples.census import SHIPPED, recipe
from mlserve.examples.weeks import KINDS, WEEKS, BadStream, deal, stream, until, week

STRENGTHS = {"covariate": 0.05, "label": 2, "concept": 0.4, "unit": 100, "vocabulary": 0.2, "missing": 0.3}
MOVES = {"concept": "income", "unit": "capital-gain", "vocabulary": "workclass", "missing": "occupation"}


@pytest.fixture(scope="module")
def people():
    return pd.read_parquet(SHIPPED)


@pytest.fixture(scope="module")
def table(people):
    return make_table(recipe, people)


def drifted(kind, n=13, seed=0, strength=None):
    return stream(n, f"{kind}:{STRENGTHS[kind] if strength is None else strength}", seed)


def test_every_row_has_one_week(people):
    weeks = deal(people)
    assert set(weeks) == set(range(1, WEEKS + 1))
    for n in (1, 2, WEEKS):
        assert week(people, n).equals(people[weeks == n].reset_index(drop=True))
    assert len(until(people, WEEKS)) == len(people)
    assert until(people, 2).equals(people[deal(people) <= 2].reset_index(drop=True))


def test_equal_people_come_in_the_same_week_whoever_is_beside_them(people):
    weeks = deal(people)
    inputs = people.drop(columns="income")
    counts = inputs.assign(week=weeks).groupby(list(inputs), observed=True, dropna=False)["week"].agg(["min", "max"])
    assert len(counts) < len(people) and (counts["min"] == counts["max"]).all()
    some = inputs.sample(500, random_state=1)
    assert (deal(some) == weeks[some.index]).all()


def test_weeks_are_alike_and_know_nothing_of_the_split(people, table):
    weeks = deal(people)
    for part in (table.held_out, people["income"] == ">50K"):
        rate, size = part.mean(), len(people) / WEEKS
        of_weeks = [part[weeks == n].mean() for n in range(1, WEEKS + 1)]
        assert np.allclose(of_weeks, rate, atol=4.5 * np.sqrt(rate * (1 - rate) / size))
    folds = pd.crosstab(weeks, table.ids % np.uint64(5))
    assert folds.to_numpy().min() > 200


def test_every_kind_has_a_strength_here():
    assert set(KINDS) == set(STRENGTHS)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_drift_repeats_with_its_seed_and_differs_with_another(kind):
    assert drifted(kind, seed=3).equals(drifted(kind, seed=3))
    if kind != "unit":  # nothing is drawn
        assert not drifted(kind, seed=3).equals(drifted(kind, seed=4))


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_drift_keeps_the_shape_of_the_week(kind):
    quiet, moved = stream(20), drifted(kind, 20)
    assert list(moved) == list(quiet) and len(moved) == len(quiet) and moved.index.equals(quiet.index)
    others = [name for name in quiet if name != MOVES.get(kind)]
    assert (moved[others].dtypes == quiet[others].dtypes).all()
    assert moved["income"].dtype == quiet["income"].dtype and not moved["income"].isna().any()


@pytest.mark.parametrize("kind", MOVES)
def test_a_drift_of_one_column_leaves_the_others_alone(kind):
    quiet, moved = stream(13), drifted(kind)
    assert moved.drop(columns=MOVES[kind]).equals(quiet.drop(columns=MOVES[kind]))
    assert not moved[MOVES[kind]].equals(quiet[MOVES[kind]])


@pytest.mark.parametrize("kind", ["covariate", "label"])
def test_a_drift_of_people_invents_nobody(kind):
    known = set(stream(13).itertuples(index=False, name=None))
    rows = drifted(kind).astype(object).where(drifted(kind).notna(), None).itertuples(index=False, name=None)
    known = {tuple(None if v != v else v for v in row) for row in known}
    assert set(rows) <= known


@pytest.mark.parametrize("kind", STRENGTHS)
def test_a_drifted_week_still_fits_the_contract(kind, table):
    assert len(make_table(recipe, drifted(kind), contract=table.contract).rows) == len(stream(13))


@pytest.mark.parametrize(("kind", "strength"), [("concept", 0), ("unit", 1), ("missing", 0)])
def test_no_strength_is_no_drift(kind, strength):
    assert drifted(kind, strength=strength).equals(stream(13))


@pytest.mark.parametrize("kind", STRENGTHS)
def test_the_strongest_and_the_weakest_drift_work(kind):
    for strength in (KINDS[kind].low, KINDS[kind].high):
        assert len(drifted(kind, strength=strength)) == len(stream(13))


def test_strength_is_what_it_says():
    quiet = stream(13)
    odds = [(rows["income"] == ">50K").sum() / (rows["income"] == "<=50K").sum() for rows in (quiet, drifted("label"))]
    assert 1.7 < odds[1] / odds[0] < 2.3
    degree = quiet["education-num"] >= 13
    flipped = drifted("concept")["income"] != quiet["income"]
    assert not flipped[~degree].any() and 0.33 < flipped[degree].mean() < 0.47
    assert 0.16 < (drifted("vocabulary")["workclass"] == "Gig-work").mean() < 0.24
    gone = drifted("missing")["occupation"].isna() & quiet["occupation"].notna()
    first, last = gone.to_numpy().nonzero()[0][[0, -1]]
    assert (
        abs(last - first + 1 - 0.3 * len(quiet)) < 5 and drifted("missing")["occupation"][first : last + 1].isna().all()
    )
    tilt = np.log(drifted("covariate")["age"].between(55, 64).sum() / quiet["age"].between(55, 64).sum())
    young = np.log(drifted("covariate")["age"].between(25, 34).sum() / quiet["age"].between(25, 34).sum())
    assert 1.1 < tilt - young < 1.9  # 30 years at 0.05 make 1.5


@pytest.mark.parametrize(
    ("n", "drift", "said"),
    [
        (12, None, "week 12 does not arrive"),
        (25, None, "the weeks 13 to 24 do"),
        (0, "concept:0.1", "week 0 does not arrive"),
        (13, "", "there is no drift ''"),
        (13, "concept", "from 0 to 1"),
        (13, "concept:", "it is ''"),
        (13, "concept:nan", "from 0 to 1"),
        (13, "concept:-0.1", "from 0 to 1"),
        (13, "covariate:inf", "from -1 to 1"),
        (13, "label:1:2", "it is '1:2'"),
        (13, "Concept:0.1", "one of covariate, label, concept, unit, vocabulary, missing"),
    ],
)
def test_what_there_is_not_is_refused_in_one_sentence(n, drift, said):
    with pytest.raises(BadStream, match=said) as refused:
        stream(n, drift)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 200


@pytest.mark.parametrize("n", [0, 25, -1])
def test_there_are_24_weeks(people, n):
    with pytest.raises(BadStream, match="the weeks are 1 to 24"):
        week(people, n)


def test_a_stream_hands_out_copies():
    mine = stream(13)
    mine.loc[:, "age"] = 0
    assert stream(13)["age"].min() >= 17
