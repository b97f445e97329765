"""What a drift check costs: 100,000 rows of 14 fields in a journal. Prints seconds and megabytes.

Both are those of a process that does nothing but look, without the time in which the journal is filled.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mlserve.contract import Contract, Field, Output
from mlserve.database import first_id, open_journal, put_truths
from mlserve.journal import Answered, Source, write_answers

ROWS, LABELLED, DAY, START = 100_000, 20_000, 5_000, 1_780_000_000
LEVELS = tuple(f"level {k}" for k in range(12))
FIELDS = tuple(Field(f"n{k}", "number") for k in range(8)) + tuple(
    Field(f"c{k}", "category", levels=LEVELS) for k in range(6)
)
CONTRACT = Contract(FIELDS, Output("binary", "rich", (False, True), positive=True))


def drawn(rng, rows):
    "Rows, chances and truth"
    columns = [rng.normal(size=rows).tolist() for _ in range(8)] + [rng.choice(LEVELS, rows).tolist() for _ in range(6)]
    chance = rng.random(rows)
    answers = [(1 - p, p) for p in chance.tolist()]
    return list(zip(*columns, strict=True)), answers, (rng.random(rows) < chance).tolist()


def fill(folder):
    "Write a journal of twenty days"
    journal, source = open_journal("", folder), Source("rich", "1.0.0", CONTRACT)
    rows, answers, truth = drawn(np.random.default_rng(1), ROWS)
    moments = [START + 86_400 * (k // DAY) + k % DAY for k in range(ROWS)]
    batch = [
        Answered(first_id(at), source, row, (float(a[1] > 0.5), *a))
        for at, row, a in zip(moments, rows, answers, strict=True)
    ]
    for start in range(0, ROWS, DAY):
        write_answers(journal, batch[start : start + DAY], set())
    put_truths(journal, [(a.id, t) for a, t in zip(batch[:LABELLED], truth, strict=False)])
    journal.close()


def look(folder):
    "Look at it, as `mlserve drift` does"
    from types import SimpleNamespace

    from mlserve.reference import as_dict, make_reference
    from mlserve.settings import Drift
    from mlserve.vigil import look_back

    rows, answers, truth = drawn(np.random.default_rng(0), 5_000)
    columns = dict(zip(CONTRACT.names, zip(*rows, strict=True), strict=True))
    stored = json.dumps(as_dict(make_reference(CONTRACT, columns, truth, truth, answers))).encode()
    manifest = SimpleNamespace(name="rich", version="1.0.0", files={"reference.json": (0, "")})
    bundle = SimpleNamespace(manifest=manifest, contract=CONTRACT, read=lambda file: stored)
    began, spent = time.perf_counter(), time.process_time()
    seen = look_back(open_journal("", folder), bundle, Drift())
    unit = 1 if sys.platform == "darwin" else 1024
    print(
        json.dumps(
            {
                "rows": seen.drift.rows,
                "labels": seen.drift.labels,
                "fields": len(FIELDS),
                "state": seen.state,
                "seconds": round(time.perf_counter() - began, 2),
                "cpu_seconds": round(time.process_time() - spent, 2),
                "megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6),
            }
        )
    )


def main():
    if len(sys.argv) > 1:
        return look(Path(sys.argv[1]))
    with TemporaryDirectory() as folder:
        fill(Path(folder))
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, folder], check=True)


if __name__ == "__main__":
    main()
