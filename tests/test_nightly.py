"The nightly round as the workflow runs it: each night in a fresh clone, beside people who push"

import subprocess
import sys
from pathlib import Path

import pytest

from mlserve.bundle import read_bundle
from mlserve.contract import example
from mlserve.database import new_id, open_journal, put_truths
from mlserve.journal import Answered, Source, write_answers

from .conftest import environment

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).resolve().parent.parent / ".ci/retrain"
BIN = Path(sys.executable).parent
FILES = {
    "settings.ini": "[model]\nrecipe = mlserve.examples.wine:recipe\nname = wine\n[compare]\nrefits = 0\n"
    "[retrain]\nrows = 20\ncool_down = 0\n",
    ".gitignore": "/models/?*\n!/models/*.dvc\n/data/?*\n!/data/*.dvc\n/cache/\n/reports/\n/journal/\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvc/config": "[core]\n    remote = team\n['remote \"team\"']\n    url = ../../store\n    verify = true\n",
}


def run(folder, *command, code=0):
    ada = {
        f"GIT_{role}_{key}": of for role in ("AUTHOR", "COMMITTER") for key, of in (("NAME", "A"), ("EMAIL", "a@b.c"))
    }
    env = environment(**ada) | {"PATH": f"{BIN}:/usr/bin:/bin"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture
def hub(tmp_path):
    "A bare repository with a project in it"
    first = tmp_path / "first"
    for file, text in FILES.items():
        (first / file).parent.mkdir(parents=True, exist_ok=True)
        (first / file).write_text(text)
    run(tmp_path, "git", "init", "-q", "--bare", "-b", "main", "hub.git")
    run(first, "git", "init", "-q", "-b", "main")
    run(first, "git", "add", ".")
    run(first, "git", "commit", "-qm", "Begin")
    run(first, "git", "remote", "add", "origin", tmp_path / "hub.git")
    run(first, "git", "push", "-q", "origin", "main")
    return tmp_path / "hub.git"


def answered(night, count, label):
    "A journal with answers of the model in service, and what was true"
    run(night, "mlserve", "slug", "bake")
    bundle = read_bundle(night / "models" / "wine")
    journal = open_journal("", night / "journal")
    values = tuple(example(bundle.contract)[name] for name in bundle.contract.names)
    source = Source("wine", bundle.manifest.version, bundle.contract)
    batch = [Answered(new_id(), source, tuple(v + k / 100 for v in values), (0, 0.5, 0.25, 0.25)) for k in range(count)]
    write_answers(journal, batch, set())
    put_truths(journal, [(one.id, bundle.contract.output.classes[label]) for one in batch])
    journal.close()


def test_what_a_night_makes_is_there_on_the_next_morning(hub, tmp_path):
    def clone(name):
        run(tmp_path, "git", "clone", "-q", hub, name)
        return tmp_path / name

    one = clone("one")
    assert "A new model was made." in run(one, SCRIPT)
    assert run(hub, "git", "tag").split() == ["wine#prod#1", "wine@v1.0.0"]

    two = clone("two")
    answered(two, 25, label=0)
    person = clone("person")
    (person / "notes.txt").write_text("meanwhile")
    run(person, "git", "add", ".")
    run(person, "git", "commit", "-qm", "Notes")
    run(person, "git", "push", "-q")
    run(two, SCRIPT)
    log = run(hub, "git", "log", "--format=%s", "main").splitlines()
    assert {"Notes", "Collect what came true", "Release wine@v1.0.0", "Begin"} <= set(log)
    for tag in run(hub, "git", "tag").split():  # what is tagged is part of the branch
        run(hub, "git", "merge-base", "--is-ancestor", f"{tag}^{{commit}}", "main")

    three = clone("three")
    run(three, "dvc", "pull", "-q", "data/wine-increments.dvc")
    assert [p.name for p in (three / "data/wine-increments").iterdir()] == ["000001.parquet"]
    run(three, "rm", "-r", "data/wine-increments")
    run(two, "cp", "-r", "journal", three)
    before = run(hub, "git", "rev-parse", "main")
    run(three, SCRIPT)
    assert [p.name for p in (three / "data/wine-increments").iterdir()] == ["000001.parquet"]  # nothing is taken twice
    assert "Collect" not in run(hub, "git", "log", "--format=%s", f"{before.strip()}..main")


def test_a_branch_that_takes_no_push_still_learns_what_serves(hub, tmp_path):
    (hub / "hooks/update").write_text('#!/bin/sh\n[ "$1" != refs/heads/main ]\n')
    (hub / "hooks/update").chmod(0o755)
    run(tmp_path, "git", "clone", "-q", hub, "one")
    said = run(tmp_path / "one", SCRIPT, code=1)
    assert "A new model was made." in said and "main takes no push; the tags are pushed" in said
    assert run(hub, "git", "tag").split() == ["wine#prod#1", "wine@v1.0.0"]
    assert run(hub, "git", "show", "wine@v1.0.0^{commit}:models/wine.dvc").startswith("outs:")


def test_what_comes_true_between_collecting_and_retraining_is_kept(hub, tmp_path):
    run(tmp_path, "git", "clone", "-q", hub, "one")
    one = tmp_path / "one"
    run(one, SCRIPT)
    answered(one, 25, label=0)
    (one / ".venv/bin").mkdir(parents=True)
    late = one / ".venv/bin/mlserve"  # `mlserve collect` comes too early; what `mlserve retrain` collects is the same
    late.write_text(f'#!/bin/sh\n[ "$1" = collect ] || exec {BIN}/mlserve "$@"\n')
    late.chmod(0o755)
    run(one, SCRIPT)
    run(tmp_path, "git", "clone", "-q", hub, "two")
    run(tmp_path / "two", "dvc", "pull", "-q", "data/wine-increments.dvc")
    assert [p.name for p in (tmp_path / "two/data/wine-increments").iterdir()] == ["000001.parquet"]
