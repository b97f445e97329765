"What the journal says about drift, from a project's own journal"

import json
import subprocess
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from mlserve.bundle import read_bundle
from mlserve.contract import example
from mlserve.database import Entry, first_id, open_journal, put_truths
from mlserve.journal import Answered, Source, write_answers
from mlserve.settings import load_settings
from mlserve.vigil import by_day, promoted_at

from .conftest import copy_project, mlserve

TODAY = datetime.now(UTC).replace(hour=1, minute=0, second=0, microsecond=0)


def drift(folder, *args):
    done = mlserve(folder, "drift", "--json", *args)
    assert done.returncode in (0, 10, 11), done.stderr
    return done.returncode, json.loads(done.stdout)


def wines(bundle):
    "Held-out wines, the model's chances for them, and what they are"
    from mlserve.data import load_table, plain
    from mlserve.persist import load_pipeline
    from mlserve.recipe import find_recipe

    settings = load_settings(bundle.folder.parent.parent, environ={})
    rows, truth = load_table(find_recipe(settings.model.recipe, settings.root), settings).part(held_out=True)
    chances = load_pipeline(bundle.read("pipeline.skops"), trusted=bundle.manifest.trusted).predict_proba(rows).tolist()
    return list(zip(*(plain(rows[name]) for name in bundle.contract.names), strict=True)), chances, truth.tolist()


def fill(folder, bundle, days, moved=False):
    "Answer the same wines on each of some days, and tell what half of them are"
    rows, chances, truth = wines(bundle)
    source = Source("wine", bundle.manifest.version, bundle.contract)
    settings = load_settings(folder, environ={})
    journal = open_journal("", settings.path(settings.journal.folder))
    for day in days:
        start = (TODAY + timedelta(days=day)).timestamp()
        batch = [
            Answered(first_id(start + k), source, tuple(v * 3 for v in row) if moved else row, (p.index(max(p)), *p))
            for k, (row, p) in enumerate(zip(rows, chances, strict=True))
        ]
        write_answers(journal, batch, set())
        put_truths(journal, [(a.id, t) for a, t in zip(batch[::2], truth[::2], strict=True)])
    journal.close()


def test_the_command_says_whether_the_world_has_moved(projects, tmp_path):
    # without what other tests have asked of it
    folder = copy_project(projects["wine"], tmp_path / "wine")
    bundle = read_bundle(folder / "models" / "wine")
    code, told = drift(folder)
    assert (code, told["state"], told["exit_code"]) == (11, "not enough data", 11)
    assert "can be said" in mlserve(folder, "drift").stdout
    fill(folder, bundle, range(-9, -6))
    code, told = drift(folder, "--plot", tmp_path / "none.png")
    assert (code, told["state"], told["drift"]) == (0, "quiet", False) and not (tmp_path / "none.png").exists()
    assert len(told["says"]) == 4 and told["rows"] == 3 * bundle.manifest.lineage.held_out
    fill(folder, bundle, range(-6, 0), moved=True)
    code, told = drift(folder, "--plot", tmp_path / "plots" / "moved.png")
    assert (code, told["state"]) == (10, "drift")
    assert next(f for f in told["findings"] if f["question"] == "covariate")["since"] > 3
    assert (tmp_path / "plots" / "moved.png").read_bytes().startswith(b"\x89PNG")
    lines = mlserve(folder, "drift").stdout.splitlines()
    assert lines[1].startswith("covariate: the rows that come in differ") and len(lines) == 5


def test_a_bundle_without_a_reference_says_so(projects, tmp_path):
    folder = copy_project(projects["wine"], tmp_path / "wine")
    path = folder / "models" / "wine" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["reference.json"]
    path.write_text(json.dumps(manifest))
    (folder / "models" / "wine" / "reference.json").unlink()
    said = mlserve(folder, "drift")
    assert said.returncode == 6 and "carries no reference" in said.stderr and len(said.stderr.splitlines()) == 1


def test_looks_begin_at_the_promotion(tmp_path):
    def git(*args):
        subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *args], cwd=tmp_path, check=True)

    settings = load_settings(tmp_path, environ={})
    bundle = SimpleNamespace(manifest=SimpleNamespace(name="wine", version="1.0.0"))
    assert promoted_at(settings, bundle) == 0.0
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    assert promoted_at(settings, bundle) == 0.0
    begun = datetime.now(UTC).timestamp()
    git("tag", "-a", "-m", "release", "wine@v1.0.0")
    git("tag", "-a", "-m", "promote", "wine#prod#1")
    assert int(begun) <= promoted_at(settings, bundle) <= datetime.now(UTC).timestamp()
    other = SimpleNamespace(manifest=SimpleNamespace(name="wine", version="2.0.0"))
    assert promoted_at(settings, other) == 0.0


@pytest.mark.parametrize("size", [1, 2, 5_000])
def test_every_row_and_truth_is_in_one_part_of_its_day(projects, size):
    contract = read_bundle(projects["wine"] / "models" / "wine").contract
    truth, start = contract.output.classes[0], datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    hours, told = [0, 1, 2, 30, 100], [50, None, 1, 30, 400]
    entries = [
        Entry(
            first_id(start + 3600 * h),
            "wine",
            "1",
            example(contract),
            truth,
            (),
            truth if t else None,
            t and start + 3600 * t,
        )
        for h, t in zip(hours, told, strict=True)
    ]
    found = list(by_day(entries, contract.output, size))
    assert [day for day, _ in found] == sorted(day for day, _ in found)
    rows, truths = {}, {}
    for day, part in found:
        assert len(part.rows) <= size and len(part.rows) == len(part.answers)
        rows[day.day], truths[day.day] = (
            rows.get(day.day, 0) + len(part.rows),
            truths.get(day.day, 0) + len(part.feedback),
        )
    assert {d: n for d, n in rows.items() if n} == {1: 3, 2: 1, 5: 1}
    assert {d: n for d, n in truths.items() if n} == {1: 1, 2: 1, 3: 1, 17: 1}
