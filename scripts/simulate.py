"""Do the gate and the drift monitor keep what they promise? Writes tests/simulations.json; `make simulate` runs it.

The gate's own `decide` judges thousands of made-up pairs of models whose true difference is known. The monitor's own bets are
settled over simulated years of daily looks at census rows that no model has learnt from. Everything is drawn from fixed seeds.
"""

import argparse
import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist

import numpy as np

from mlserve.contract import Output
from mlserve.data import make_table, plain
from mlserve.drift import LOOKS, State, make_monitor, paid, paid_by_losses, settle
from mlserve.examples.census import SHIPPED, build, recipe
from mlserve.examples.weeks import KINDS, LEARNT, deal
from mlserve.gate import HOLD, MORE, PROMOTE, decide
from mlserve.reference import answer_columns, losses, make_reference
from mlserve.settings import Drift, Gate

RECORD = Path(__file__).resolve().parent.parent / "tests" / "simulations.json"
INCOME = Output("binary", "income", (0, 1), positive=1)
KIND = Output("multiclass", "kind", (0, 1, 2))
PRICE = Output("regression", "price")
SKILL, RATE = 2.0, 0.24  # an area of 0.92 under the curve, a quarter of the rows positive: like census rows
WIDE = 99.0  # a margin nobody exceeds


# --- the gate ---------------------------------------------------------------------------------------------------------------


def skill_at(area):
    "How far apart two normal distributions stand that are ranked right with this probability"
    return math.sqrt(2) * NormalDist().inv_cdf(area)


def chances(seen, skill, less=0.0):
    return 1 / (1 + np.exp(-(skill * seen - skill**2 / 2 + math.log(RATE / (1 - RATE)) - less)))


def duo(rng, rows, skill=SKILL, less=0.0, noise=0.25):
    "Truth, and the chances two models give: the second of another skill, or with odds lowered by `less` for each row"
    truth = rng.random(rows) < RATE
    shared = rng.normal(size=rows)
    seen = [np.sqrt(1 - noise**2) * shared + noise * rng.normal(size=rows) for _ in range(2)]
    old, new = chances(seen[0] + SKILL * truth, SKILL), chances(seen[1] + skill * truth, skill, less)
    return truth.astype(int).tolist(), *([(1 - p, p) for p in found.tolist()] for found in (old, new))


def loss_of(skill):
    "The mean log loss of a model of that skill, by numerical integration"
    x = np.linspace(-10, 14, 24_001)
    normal = NormalDist()
    step = x[1] - x[0]
    total = 0.0
    for positive, weight in ((1, RATE), (0, 1 - RATE)):
        density = np.array([normal.pdf(v - skill * positive) for v in x])
        p = np.clip(chances(x, skill), 1e-300, 1 - 1e-16)
        total += weight * float((-np.log(p if positive else 1 - p) * density).sum() * step)
    return total


def skill_of_loss(loss):
    low, high = 0.1, SKILL
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if loss_of(middle) > loss else (low, middle)
    return low


def numbers(rng, rows, ratio=1.0):
    "A regression whose second model errs `ratio` times as much"
    truth, shared = rng.normal(100, 20, rows), rng.normal(size=rows)
    old, new = (5 * (0.97 * shared + 0.24 * rng.normal(size=rows)) for _ in range(2))
    return truth.tolist(), (truth + old).tolist(), (truth + ratio * new).tolist()


def kinds(rng, rows, skill=2.0):
    "Three classes"
    truth = rng.choice(3, rows, p=(0.5, 0.3, 0.2))
    shared = rng.normal(size=(rows, 3))
    made = []
    for s in (2.0, skill):
        seen = 0.97 * shared + 0.24 * rng.normal(size=(rows, 3)) + s * np.eye(3)[truth]
        odds = np.exp(s * seen) * (0.5, 0.3, 0.2)
        made.append([tuple(p) for p in (odds / odds.sum(axis=1, keepdims=True)).tolist()])
    return truth.tolist(), *made


def tally(output, draw, rules, runs, seed, slices=lambda rng, truth: {}, protected=None):
    "What the gate decides, and why it holds"
    decisions, held, needed = Counter(), Counter(), []
    for k in range(runs):
        rng = np.random.default_rng([seed, k])
        drawn = draw(rng)
        truth, old, new = drawn[:3]
        inside = drawn[3] if len(drawn) > 3 else slices(rng, truth)
        verdict = decide(output, truth, old, new, inside, rules, protected=protected)
        decisions[verdict.decision] += 1
        held.update({r.rule for r in verdict.reasons if r.decision == HOLD})
        needed += [verdict.needed] if verdict.needed else []
    found = {d: round(decisions[d] / runs, 4) for d in (PROMOTE, HOLD, MORE)}
    return found | {"runs": runs, "held by": dict(held), "needed": int(np.median(needed)) if needed else None}


def gate_errors(runs):
    "Models at the margin exactly, which must not be promoted more often than stated"
    rules = Gate()
    area = NormalDist().cdf(SKILL / math.sqrt(2))
    weaker, lossier = skill_at(area - rules.margin), skill_of_loss(loss_of(SKILL) * (1 + rules.loss_margin))
    alone, by_loss = replace(rules, loss_margin=WIDE), replace(rules, margin=WIDE)
    none = Gate(margin=0.0, loss_margin=0.0)
    ratio = 1 + rules.loss_margin
    three = replace(rules, loss_margin=0.0)
    cases = {
        "ranking worse by the margin, 300 rows": (INCOME, lambda r: duo(r, 300, weaker), alone),
        "ranking worse by the margin, 1,000 rows": (INCOME, lambda r: duo(r, 1_000, weaker), alone),
        "log loss worse by the margin, 300 rows": (INCOME, lambda r: duo(r, 300, lossier), by_loss),
        "log loss worse by the margin, 1,000 rows": (INCOME, lambda r: duo(r, 1_000, lossier), by_loss),
        "equal, no margin, 500 rows": (INCOME, lambda r: duo(r, 500), none),
        "three classes, equal, no margin, 300 rows": (KIND, lambda r: kinds(r, 300), replace(three, margin=0.0)),
        "errors of numbers worse by the margin, 500 rows": (PRICE, lambda r: numbers(r, 500, ratio), rules),
    }
    return {name: tally(*case, runs, seed) for seed, (name, case) in enumerate(cases.items(), 500)}


def gate_power(runs):
    "Equal models, on the number of rows that the gate itself asks for"
    asked = tally(INCOME, lambda r: duo(r, 500), Gate(), runs, 100)["needed"]
    priced = tally(PRICE, lambda r: numbers(r, 200), Gate(), runs, 101)["needed"]
    return {
        f"equal, {asked:,} rows, as asked for on 500": tally(INCOME, lambda r: duo(r, asked), Gate(), runs, 102),
        f"equal numbers, {priced:,} rows, as asked for on 200": tally(
            PRICE, lambda r: numbers(r, priced), Gate(), runs, 103
        ),
    }


def sliced(rng, rows, inside_rows, less, slices):
    "Rows with slices of equal size, in the first of which the odds are lowered"
    place = np.repeat(np.arange(slices), inside_rows)
    place = np.concatenate([place, np.full(rows - len(place), slices)])
    truth, old, new = duo(rng, rows, less=np.where(place == 0, less, 0.0))
    return truth, old, new, {f"s{k}": (place == k).tolist() for k in range(slices)}


def gate_slices(runs):
    "Ten slices, of which none or one is harmed"
    rules = Gate(margin=WIDE, loss_margin=WIDE)
    made = {}
    for rows, less in ((500, 0.0), (500, 1.5), (800, 0.0), (800, 1.0), (800, 1.5)):
        harm = slice_harm(less)
        name = f"{rows} rows in the slice, loss {harm:+.0%}"
        made[name] = tally(INCOME, lambda r, n=rows, m=less: sliced(r, 10 * n, n, m, 10), rules, runs, 200)
    return made


def slice_harm(less):
    "By how much lowered odds raise the log loss"
    rng = np.random.default_rng(7)
    truth, old, new = duo(rng, 400_000, less=less)
    loss = [np.log(np.array(p)[np.arange(len(truth)), truth]).mean() for p in (old, new)]
    return loss[1] / loss[0] - 1


def creep(anchored, looks=52, rows=6_000, step=0.0015):
    "A year in which each refit is a little worse than the one in service"
    rules, rng = Gate(margin=0.01, loss_margin=WIDE), np.random.default_rng(5)
    first = NormalDist().cdf(SKILL / math.sqrt(2))
    served = first
    for _ in range(looks):
        area = served - step
        truth = rng.random(rows) < RATE
        shared = rng.normal(size=rows)
        sides = [
            chances(0.97 * shared + 0.24 * rng.normal(size=rows) + skill_at(a) * truth, skill_at(a))
            for a in (served, area, first)
        ]
        old, new, best = ([(1 - p, p) for p in side.tolist()] for side in sides)
        if decide(INCOME, truth.astype(int).tolist(), old, new, {}, rules, best=best if anchored else None):
            served = area
    return round(first - served, 4)


# --- drift ------------------------------------------------------------------------------------------------------------------


class World:
    "Rows from which days are drawn, with a model's answers and the truth"

    def __init__(self, rows, pipeline, contract):
        self.contract = contract
        self.columns = {f.name: plain(rows[f.name]) for f in contract.fields}
        self.truth = plain(rows[contract.output.target])
        self.answers = [
            tuple(p) for p in pipeline.predict_proba(rows[list(self.columns)].astype(as_trained(rows))).tolist()
        ]
        self.size = len(rows)

    def values(self, summary, question):
        if question == "covariate":
            return self.columns[summary.name]
        return (
            self.truth if question == "label" else answer_columns(self.contract.output, self.answers)[summary.name][1]
        )

    @cache  # noqa: B019 (lives as long as the world)
    def array(self, column, question):
        "Values as numbers or as they are, and where there is none"
        values = np.array(self.values(column, question), dtype=object)
        gone = np.array([v is None or v != v for v in values])
        by_level = column.kind in ("category", "boolean")
        return (values if by_level else values.astype(float)), gone

    @cache  # noqa: B019
    def level(self, column, question, mark):
        return self.array(column, question)[0] == mark

    def marks(self, watch, question):
        "Which row hits which mark; of which rows each mark is a part"
        hits, of = [], []
        for column in watch.columns:
            bare = replace(column, marks=(), hits=(), of=())
            values, gone = self.array(bare, question)
            if column.kind in ("category", "boolean"):
                level = [self.level(bare, question, m) for m in column.marks]
                hits += [*level, ~gone & ~np.any(level, axis=0), gone]
            else:
                hits += [*(values[None] <= np.array(column.marks)[:, None]), gone]
            of += [*(~gone for _ in hits[len(of) : -1]), ~np.zeros_like(gone)]
        return np.stack(hits, axis=1).astype(np.uint8), np.stack(of, axis=1).astype(np.uint8)


def as_trained(rows):
    return {name: object for name in rows if rows[name].dtype.name == "category" and name != recipe.target}


def people():
    "A model of twelve weeks, and the rows of the other twelve"
    import pandas as pd

    rows = pd.read_parquet(SHIPPED)
    late = deal(rows) > LEARNT
    table = make_table(recipe, rows[~late].reset_index(drop=True))
    fitted = build().set_params(histgradientboostingclassifier__random_state=0).fit(table.rows, table.target)
    return rows[late].reset_index(drop=True), fitted, table.contract


def reference_of(world, rng, rows):
    "What a model would store that was made with this many rows"
    which = rng.integers(world.size, size=rows)
    held = rng.integers(world.size, size=max(rows // 5, 40))
    return make_reference(
        world.contract,
        {name: [values[i] for i in which] for name, values in world.columns.items()},
        [world.truth[i] for i in which],
        [world.truth[i] for i in held],
        [world.answers[i] for i in held],
    )


def counted(world, monitor):
    "All that can be bet on, row by row"
    marks = {q: world.marks(w, q) for q, w in monitor.watches.items()}
    lost = losses(world.contract.output, world.truth, world.answers, monitor.cap)
    return marks, lost


def one_day(monitor, state, marks, lost, which):
    hits = {q: tuple(m[which].sum(axis=0, dtype=float) for m in pair) for q, pair in marks.items()}
    paid_out = {q: paid(monitor.watches[q], *pair) for q, pair in hits.items()}
    paid_out["concept"] = paid_by_losses(lost[which], monitor.bound)
    hits["concept"] = np.array([lost[which].sum()]), np.array([float(len(which))])
    return settle(monitor, state, hits, paid_out, len(which))


def year(rng, world, rows, reference_rows, rules, weights=None):
    "Is anything found in a year in which nothing moves?"
    monitor = make_monitor(reference_of(world, rng, reference_rows), world.contract.output, rules)
    marks, lost = counted(world, monitor)
    state = State()
    for _ in range(LOOKS):
        which = rng.integers(world.size, size=rows) if weights is None else rng.choice(world.size, rows, p=weights)
        state = one_day(monitor, state, marks, lost, which)
    return dict(state.found)


def tilted(world, column, level, by):
    "Weights that raise the share of a level by `by`"
    there = np.array([v == level for v in world.columns[column]])
    share = there.mean()
    return np.where(there, (share + by) / share, (1 - share - by) / (1 - share)) / world.size


def drift_errors(world, runs):
    "Quiet years, and years in which a share has moved by the tolerance, which is not yet drift"
    rules, made = Drift(), {}
    at_edge = tilted(world, "sex", "Female", rules.tolerance)
    for rows, reference_rows, weights, name in (
        (30, 200, None, "quiet"),
        (30, 16_000, None, "quiet"),
        (300, 200, None, "quiet"),
        (300, 2_000, None, "quiet"),
        (500, 16_000, None, "quiet"),
        (500, 16_000, at_edge, "moved by the tolerance"),
    ):
        found = Counter()
        for k in range(runs):
            got = year(np.random.default_rng([300, k]), world, rows, reference_rows, rules, weights)
            found.update(["any", *got] if got else ["none"])
        total = found["any"] + found["none"]
        shares = {q: round(found[q] / total, 4) for q in found if q not in ("any", "none")}
        made[f"{name}, {rows:,} rows a day, reference of {reference_rows:,}"] = {
            "false alarms a year": round(found["any"] / total, 4),
            "runs": total,
            "by question": shares,
        }
    return made


QUIET = 30  # days before the world moves
DRIFTS = {
    "covariate": (("covariate:0.01", "covariate:0.02"), "covariate"),
    "label": (("label:1.35", "label:2"), "label"),
    "concept": (("concept:0.2", "concept:0.4"), "concept"),
    "unit": (("unit:100",), "covariate"),
    "vocabulary": (("vocabulary:0.05", "vocabulary:0.1"), "covariate"),
    "missing": (("missing:0.1", "missing:0.2"), "covariate"),
}


def delay(rng, monitor, quiet, after, rows, most=60):
    "Days until each question is answered with yes, after the world has moved"
    state = State()
    for day in range(QUIET + most):
        marks, lost = quiet if day < QUIET else after
        state = one_day(monitor, state, marks, lost, rng.integers(len(lost), size=rows))
    return {q: look - QUIET for q, look in state.found.items() if look > QUIET}


def drift_power(rows_of_weeks, fitted, contract, world, runs):
    "After a quiet month, how soon is a shift of a known size found?"
    worlds = {}
    for kind, (strengths, question) in DRIFTS.items():
        for drift in strengths:
            shifted = KINDS[kind].move(rows_of_weeks, float(drift.partition(":")[2]), np.random.default_rng(9))
            worlds[drift] = World(shifted, fitted, contract), question
    days = {(drift, rows): [] for drift in worlds for rows in (100, 500)}
    for k in range(runs):
        monitor = make_monitor(reference_of(world, np.random.default_rng([400, k]), 16_000), contract.output, Drift())
        quiet = counted(world, monitor)
        for drift, (moved, question) in worlds.items():
            after = counted(moved, monitor)
            for rows in (100, 500):
                found = delay(np.random.default_rng([401, rows, k]), monitor, quiet, after, rows)
                days[drift, rows].append(found.get(question, math.inf))
    return {f"{drift}, {rows} rows a day": delays(worlds[drift][1], took) for (drift, rows), took in days.items()}


def delays(question, days):
    "How soon, and how often at all"
    middle = float(np.median(days))
    within = {f"found in {most} days": float(np.mean(np.array(days) <= most)) for most in (7, 30, 60)}
    return {"question": question, "runs": len(days), "median days": middle if math.isfinite(middle) else None, **within}


PARTS = ("gate errors", "gate power", "gate slices", "gate creep", "drift errors", "drift power")


def simulate(parts, runs):
    "The parts that were asked for, each as it is recorded"
    gate = {
        "gate errors": lambda: gate_errors(runs),
        "gate power": lambda: gate_power(runs // 5),
        "gate slices": lambda: gate_slices(runs // 5),
        "gate creep": lambda: {"without the best": creep(False), "with the best": creep(True)},
    }
    for part in [p for p in parts if p in gate]:
        yield part, gate[part]()
    if {"drift errors", "drift power"} & set(parts):
        rows, fitted, contract = people()
        world = World(rows, fitted, contract)
        if "drift errors" in parts:
            yield "drift errors", drift_errors(world, max(runs // 4, 1))
        if "drift power" in parts:
            yield "drift power", drift_power(rows, fitted, contract, world, max(runs // 20, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs",
        type=int,
        default=2_000,
        help="pairs of models a case; a fifth of it for power, a quarter are years, a twentieth shifts",
    )
    parser.add_argument("--only", choices=PARTS, help="one part; the others stay as recorded")
    parser.add_argument("--record", type=Path, default=RECORD)
    chosen = parser.parse_args()
    for part, found in simulate([chosen.only] if chosen.only else PARTS, chosen.runs):
        kept = json.loads(chosen.record.read_text()) if chosen.record.exists() else {}
        kept |= {part: found}
        chosen.record.write_text(json.dumps({p: kept[p] for p in PARTS if p in kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
