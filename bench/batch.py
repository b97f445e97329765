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

    engine, classes, names = scorer(plan, compiled), plan.classes, contract.names
    if compiled and engine.speed != "compiled":
        return {}

    def labels(columns):
        return [classes[int(number)] for number in engine.columns(columns)[0]]

    def columns(body):
        given = json.loads(body)
        return labels([given[name] for name in names])

    def records(body):
        rows = json.loads(body)
        return labels([[row[name] for row in rows] for name in names])

    return {"columns": columns, "records": records}


def all_ways(bundle):
    "name -> shape of the body -> a function from bytes to labels; and how long folding took"
    from mlserve.fold import fold

    pipeline, contract = pipeline_of(bundle), bundle.contract
    begin = time.perf_counter()
    plan = fold(pipeline, contract)
    took = time.perf_counter() - begin
    ways = {
        PANDAS: _pandas(pipeline),
        "mlserve compiled": _folded(plan, contract, True),
        "mlserve Python": _folded(plan, contract, False),
        "mlserve sklearn": _sklearn(pipeline, contract),
    }
    return ways, took


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
            found[name][shape] = {"krows_s": round(krows, 1), "x_pandas": round(statistics.median(times), 2)}
    skipped = {name: "the compiled walk was not built here" for name, shapes in ways.items() if not shapes}
    return {"rows": len(rows), "ways": found, "fold_s": round(folding, 1), "skipped": skipped}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("project", type=Path)
    parser.add_argument("rounds", type=int)
    given = parser.parse_args()
    os.sched_setaffinity(0, {cores()[0]})
    print(json.dumps(measure(given.project, given.rounds)))


if __name__ == "__main__":
    main()
