"""Every pipeline of the coverage table is folded and proven.

`python tests/test_fold_coverage.py` writes the table anew.
"""

import json
import sys
import warnings
from functools import cache
from pathlib import Path

import pytest

from mlserve.features import CannotFold
from mlserve.fold import fold, prove, reasons, rows_of
from mlserve.plan import BOUND, from_bytes, to_bytes
from mlserve.walk import scorer

sys.path.insert(0, str(Path(__file__).parent))
import fold_cases

TABLE = Path(__file__).with_name("fold_coverage.json")
CASES = {(group, name): (task, pipe) for group, name, task, pipe in fold_cases.cases()}
rows = cache(fold_cases.rows)


def verdict(group, name):
    "Fit, fold, write, read and prove one pipeline: its row of the table"
    task, pipe = CASES[group, name]
    frame, targets = rows(900)
    contract = fold_cases.contract(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some fits stop early
        pipe.fit(frame[:600], fold_cases.target_for(name, targets[task])[:600])
        try:
            plan = from_bytes(to_bytes(fold(pipe, contract)))
        except CannotFold as error:
            return {"group": group, "name": name, "how": "not folded", "why": f"{error.step}: {error.why}"}
        proof = prove(plan, pipe, contract, frame[600:], most=1200)
        assert proof.holds, (proof.why, proof.row)
        slow, fast = scorer(plan, compiled=False), scorer(plan)
        assert all(slow.row(values) == fast.row(values) for values in rows_of(frame[600:], contract))
    assert proof.largest <= (0 if plan.exact else BOUND)
    how = "bit-equal" if plan.exact else "within 1e-12"
    return {"group": group, "name": name, "how": how, "why": "; ".join(reasons(plan))}


def recorded():
    return {(row["group"], row["name"]): row for row in json.loads(TABLE.read_text(encoding="utf-8"))}


# every third case in the ordinary run, all of them with the slow tests
MARKED = [pytest.param(*case, marks=[pytest.mark.slow] if number % 3 else []) for number, case in enumerate(CASES)]


@pytest.mark.parametrize("group, name", MARKED)
def test_the_table_tells_the_truth(group, name):
    assert verdict(group, name) == recorded()[group, name]


def test_the_table_is_whole():
    table = recorded()
    assert list(table) == list(CASES)
    assert sum(row["how"] == "bit-equal" for row in table.values()) >= 35
    assert all(row["why"] for row in table.values() if row["how"] != "bit-equal")


if __name__ == "__main__":
    found = [verdict(*case) for case in CASES]
    TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
