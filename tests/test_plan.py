"""Plans in files, damaged plans, and the two speeds of the walk."""

import os
import struct
import sys
from array import array
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlserve import walk
from mlserve.plan import BadPlan, Input, Nodes, Op, Plan, check, from_bytes, load, save, to_bytes
from mlserve.walk import CannotScore, scorer

sys.path.insert(0, str(Path(__file__).parent))
import random_plans

seeds = st.integers(0, 2**32 - 1)
compiled = pytest.mark.skipif(walk._walk is None, reason="built without a compiler")
# MLSERVE_FUZZ=20000 for a long run
many = settings(max_examples=int(os.environ.get("MLSERVE_FUZZ", "150")), deadline=None)


def bits(numbers):
    "Numbers as bytes; NaN is NaN, whatever its sign"
    return None if numbers is None else [struct.pack("<d", x) if x == x else b"nan" for x in numbers]


def answer(row, values):
    try:
        return row(values)
    except CannotScore as error:
        return None if error.row is None else pytest.fail("a single row has no number")


def columns_of(plan, rows):
    return [list(column) for column in zip(*rows, strict=True)]


@many
@given(seeds)
def test_a_plan_survives_its_file(seed):
    plan = random_plans.plan(seed)
    again = from_bytes(to_bytes(plan))
    assert to_bytes(again) == to_bytes(plan)
    assert again.inputs == plan.inputs and [op.name for op in again.ops] == [op.name for op in plan.ops]


def test_a_plan_is_saved_and_loaded(tmp_path):
    plan = random_plans.plan(3)
    save(plan, tmp_path / "plan")
    assert to_bytes(load(tmp_path / "plan")) == to_bytes(plan)


@compiled
@many
@given(seeds)
def test_both_speeds_give_the_same_bits(seed):
    plan = random_plans.plan(seed)
    check(plan)
    slow, fast = scorer(plan, compiled=False), scorer(plan)
    assert (slow.speed, fast.speed) == ("python", "compiled")
    for values in random_plans.rows(plan, seed, 20):
        assert bits(answer(slow.row, values)) == bits(answer(fast.row, values))


@compiled
@many
@given(seeds, st.sampled_from([1, 7, 8, 9, 127, 129, 300]))
def test_columns_are_rows(seed, count):
    plan = random_plans.plan(seed)
    slow, fast = scorer(plan, compiled=False), scorer(plan)
    rows = random_plans.rows(plan, seed, count)
    answers = [answer(slow.row, values) for values in rows]
    refused = next((i for i, a in enumerate(answers) if a is None), None)
    for one in (slow, fast):
        if refused is not None:
            with pytest.raises(CannotScore, match=r"^row") as caught:
                one.columns(columns_of(plan, rows))
            assert caught.value.row == refused
        else:
            found = one.columns(columns_of(plan, rows))
            assert [bits(column) for column in found] == [bits(column) for column in zip(*answers, strict=True)]


@many
@given(seeds, seeds)
def test_a_damaged_file_is_refused_or_runs(seed, where):
    plan = random_plans.plan(seed)
    data = bytearray(to_bytes(plan))
    rng = random_plans.Random(where)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    try:
        plan = from_bytes(bytes(data))
    except BadPlan as error:
        assert "damaged" in str(error)
        return
    one = scorer(plan)
    for values in random_plans.rows(plan, seed, 3):
        answer(one.row, values)


@compiled
@many
@given(seeds, seeds)
def test_the_compiled_walk_refuses_damaged_plans_by_itself(seed, where):
    plan = random_plans.damaged(random_plans.plan(seed), where)
    try:
        one = scorer(plan)  # no check in Python
    except (ValueError, OverflowError):
        with pytest.raises(BadPlan):
            check(plan)
        return
    rows = random_plans.rows(plan, seed, 9)
    for values in rows:
        answer(one.row, values)
    try:
        one.columns(columns_of(plan, rows))
    except CannotScore:
        pass


@compiled
@pytest.mark.parametrize("values", [(), (1, 2), ("text", "a"), (10**400, "a"), ([], []), ({}, [])])
def test_odd_rows_are_refused_alike(values):
    plan = random_plans.Plan(
        (random_plans.Input("x", "number"), random_plans.Input("c", "code", ("a",))),
        (random_plans.Op("neg", (0,)),),
        (1, 2),
    )
    kinds = []
    for fast in (False, True):
        try:
            kinds.append(scorer(plan, fast).row(values))
        except (ValueError, TypeError, OverflowError) as error:
            kinds.append(type(error))
    assert kinds[0] == kinds[1]


@compiled
def test_a_column_may_be_a_buffer_of_doubles():
    plan = random_plans.Plan((random_plans.Input("x", "number"),), (random_plans.Op("neg", (0,)),), (1,))
    assert list(scorer(plan).columns([array("d", [1.0, 2.0])])[0]) == [-1.0, -2.0]
    assert list(scorer(plan).columns([array("i", [1, 2])])[0]) == [-1.0, -2.0]
    with pytest.raises(ValueError, match="columns"):
        scorer(plan).columns([])


class Clears:
    "A number that empties the list it stands in"

    def __init__(self, values):
        self.values = values

    def __float__(self):
        self.values.clear()
        return 1.0


@compiled
def test_a_row_or_a_column_may_shrink_while_it_is_read():
    fields = tuple(Input(name, "number") for name in "abc")
    walks = scorer(Plan(inputs=fields, ops=(Op("plus", (0, 1, 2)),), outputs=(3,)))
    for read in (walks.row, lambda values: walks.columns([values] * 3)):
        values = []
        values += [Clears(values), 2.0, 3.0]
        with pytest.raises(ValueError, match="became shorter"):
            read(values)


def test_trees_without_a_question_ask_for_no_set_of_codes():
    levels = tuple(f"level {i}" for i in range(200))
    nodes = Nodes(*(array(code, [0]) for code in "Bidi"), leaves=array("d", [7.0]), roots=array("i", [0]))
    plan = Plan((Input("job", "code", levels),), (Op("trees", (), (0.5,), (0, 1, 0, 1)),), (1,), nodes=nodes)
    check(plan)
    assert scorer(plan).row(["level 199"]) == (7.5,)
    assert [list(c) for c in scorer(plan).columns([["level 199", "level 0"]])] == [[7.5, 7.5]]
