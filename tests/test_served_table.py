"""Every pipeline of the coverage table as a service: by the engine that the table says, with the pipeline's own answers.

A row goes through the lane, a list through the app; both must give what scikit-learn gives for the same rows.
"""

import json
import sys
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from mlserve.data import frame_of_rows, plain
from mlserve.plan import BOUND
from tests.served import Served, bundle_of

sys.path.insert(0, str(Path(__file__).parent))
import fold_cases

TABLE = json.loads(Path(__file__).with_name("fold_coverage.json").read_text(encoding="utf-8"))
HOW = {(row["group"], row["name"]): row["how"] for row in TABLE}
CASES = {(group, name): (task, pipe) for group, name, task, pipe in fold_cases.cases()}
rows = cache(fold_cases.rows)
JSON = [(b"content-type", b"application/json")]
TRUSTED = ("fold_cases.Homemade", "fold_cases.halved")  # code of ours, which loads only because we say so


def asked(frame, contract):
    "Rows as a client would send them: without the fields that are missing"
    columns = {f.name: plain(frame[f.name]) for f in contract.fields}
    made = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{k: v for k, v in row.items() if v is not None} for row in made]


def expected(pipeline, frame, classes):
    "Labels and probabilities, or values, of scikit-learn"
    if not classes:
        return [(float(v), {}) for v in np.ravel(pipeline.predict(frame))]
    shares = pipeline.predict_proba(frame).tolist() if hasattr(pipeline, "predict_proba") else [[]] * len(frame)
    return [
        (str(c), dict(zip(classes, p, strict=bool(p)))) for c, p in zip(pipeline.predict(frame), shares, strict=True)
    ]


def close(answer, wanted, bound):
    said, shares = wanted
    if "label" in answer:
        same = answer["label"] == said
    else:
        same = abs(answer["value"] - said) <= bound * max(1.0, abs(said))
    given = answer.get("probabilities", {})
    return same and given.keys() == shares.keys() and all(abs(given[k] - shares[k]) <= bound for k in shares)


HEAVY = ("PolynomialFeatures (degree 3, linear model)", "Stacking (a tree over a linear model)")


def marks(number, name):
    "A third of the cases is for the ordinary run, but for those that take long"
    return [] if number % 3 == 1 and name not in HEAVY else [pytest.mark.slow]


MARKED = [pytest.param(*case, marks=marks(number, case[1])) for number, case in enumerate(CASES)]


@pytest.mark.filterwarnings("ignore:Found unknown categories")  # scikit-learn says so of a level it never saw
@pytest.mark.parametrize(("group", "name"), MARKED)
def test_a_pipeline_is_served_by_its_engine(group, name, tmp_path):
    task, pipeline = CASES[group, name]
    frame, targets = rows(900)
    contract = fold_cases.contract(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some fits stop early
        pipeline.fit(frame[:600], fold_cases.target_for(name, targets[task])[:600])
    held_out = asked(frame[600:660], contract)
    served = Served(bundle_of(tmp_path / "model", pipeline, contract, held_out[:20], TRUSTED))
    engine = "sklearn" if HOW[group, name] == "not folded" else "plan"
    assert served.model.bundle.manifest.engine == engine
    told = json.loads(served.ask(method="GET", path="/model")[2])
    assert told["engine"] == engine and told["speed"] == (served.model.speed or None)

    complete = [{**dict.fromkeys(contract.names), **row} for row in held_out]
    wanted = expected(pipeline, frame_of_rows(contract.fields, complete), contract.output.classes)
    bound = 0.0 if HOW[group, name] == "bit-equal" else BOUND
    status, _, body = served.ask(json.dumps(held_out).encode(), JSON)
    assert status == 200
    together = json.loads(body)
    before = served.handed_on
    alone = [json.loads(served.ask(json.dumps(row).encode(), JSON)[2]) for row in held_out[:8]]
    assert served.handed_on == before + (0 if engine == "plan" else 8), "the lane answers what is folded"
    for answers in (together, alone):
        assert all(close(a, w, bound) for a, w in zip(answers, wanted, strict=answers is together))
