"Many rows at once, in this process: bytes of JSON in, a list of labels out. No way checks the rows; pandas does not either."

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from model import MANY, bundle_of, complete_rows, pipeline_of
from processes import cores

PANDAS = "pandas + scikit-learn"


def _pandas(pipeline):
    import pandas as pd

    def labels(body):
        return pipeline.predict(pd.DataFrame(json.loads(body))).tolist()

    return {"columns": labels, "records": labels}


def _sklearn(pipeline, contract):
    from mlserve.score import sklearn_engine

    score, classes = sklearn_engine(pipeline, contract), contract.output.classes

    def labels(rows):
        return [classes[int(s.value)] for s in score(rows)]

    def columns(body):
        given = json.loads(body)
        return labels([dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)])

    return {"columns": columns, "records": lambda body: labels(json.loads(body))}


def _folded(plan, contract, compiled):
    from mlserve.walk import scorer
    from mlserve.wire import read_json

    engine, classes, names = scorer(plan, compiled), plan.classes, contract.names
    if compiled and engine.speed != "compiled":
        return {}

    def labels(columns):
        return [classes[int(number)] for number in engine.columns(columns)[0]]

    def columns(body):
        given = read_json(body)
        return labels([given[name] for name in names])

    def records(body):
        rows = read_json(body)
        return labels([[row[name] for row in rows] for name in names])

    return {"columns": columns, "records": records}


def all_ways(bundle):
    "name -> shape of the body -> a function from bytes to labels; and how long folding took"
    from mlserve.fold import fold

    pipeline, contract = pipeline_of(bundle), bundle.contract
    plan, took = _timed(lambda: fold(pipeline, contract))
    ways = {
        PANDAS: _pandas(pipeline),
        "mlserve compiled": _folded(plan, contract, True),
        "mlserve Python": _folded(plan, contract, False),
        "mlserve sklearn": _sklearn(pipeline, contract),
    }
    return ways, took


def _timed(function):
    "What a function gives, and how many seconds it took"
    begin = time.perf_counter()
    made = function()
    return made, round(time.perf_counter() - begin, 3)


def fold_boosting(project, rounds=500):
    "Seconds to fold boosted trees of so many rounds, learnt from the same rows"
    from mlserve.data import make_table
    from mlserve.examples.census import census_forest, recipe
    from mlserve.fold import fold
    from mlserve.settings import load_settings

    settings = load_settings(project, environ={})
    table = make_table(census_forest, census_forest.load(settings.path(settings.data.folder)))
    pipeline = recipe.build()
    pipeline[-1].set_params(max_iter=rounds, early_stopping=False)
    pipeline.fit(*table.part(held_out=False))
    if pipeline[-1].n_iter_ != rounds:
        raise SystemExit(f"bench: the boosting stopped after {pipeline[-1].n_iter_} rounds of {rounds}")
    return _timed(lambda: fold(pipeline, table.contract))[1]


def load_plan(bundle):
    "Seconds to read, check and make ready a plan: the fastest of five"
    from mlserve.plan import from_bytes
    from mlserve.walk import scorer

    data = bundle.read("plan.bin")
    return min(_timed(lambda: scorer(from_bytes(data)))[1] for _ in range(5))


def bodies(rows):
    "The rows in both shapes"
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {"columns": json.dumps(columns).encode(), "records": json.dumps(rows).encode()}


def _seconds(function, body):
    begin = time.perf_counter()
    function(body)
    return time.perf_counter() - begin


def _compare(ways, sent, rounds):
    "Seconds of each way for one shape: name -> one figure a round"
    taken = {name: [] for name in ways}
    for _ in range(rounds):
        for name, function in ways.items():
            taken[name].append(_seconds(function, sent))
    return taken


def measure(project, rounds, count=MANY):
    "Thousand rows a second of each way, and the ratio to pandas + scikit-learn inside each round"
    rows, labels = complete_rows(project, count, held_out=False)
    ways, folding = all_ways(bundle_of(project))
    found = {name: {} for name, shapes in ways.items() if shapes}
    for shape, sent in bodies(rows).items():
        there = {name: shapes[shape] for name, shapes in ways.items() if shapes}
        for name, function in there.items():
            if function(sent) != labels:
                raise SystemExit(f"bench: {name} gives other labels than the pipeline for JSON {shape}")
        taken = _compare(there, sent, rounds)
        for name, seconds in taken.items():
            times = [base / own for base, own in zip(taken[PANDAS], seconds, strict=True)]
            krows = len(rows) / statistics.median(seconds) / 1e3
            spread = {"median": statistics.median(times), "low": min(times), "high": max(times)}
            found[name][shape] = {"krows_s": round(krows, 1), "x_pandas": round(statistics.median(times), 2)}
            found[name][shape]["spread"] = {which: round(value, 3) for which, value in spread.items()}
    skipped = {name: "the compiled walk was not built here" for name, shapes in ways.items() if not shapes}
    bundle = bundle_of(project)
    seconds = {"fold forest": folding, "fold boosting": fold_boosting(project), "load plan": load_plan(bundle)}
    return {"rows": len(rows), "ways": found, "seconds": seconds, "skipped": skipped}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path)
    parser.add_argument("rounds", type=int)
    given = parser.parse_args()
    os.sched_setaffinity(0, {cores()[0]})
    print(json.dumps(measure(given.project, given.rounds)))


if __name__ == "__main__":
    main()
