"""The workflows as they stand, run by act on this machine, with stand-ins for the actions and for what is outside

First the wiring, with stand-ins for make and mlserve too: which job runs after what came of which. Then the real commands:
tests that are red, a deployment to a stand-in for Heroku that is tried out and taken back, a night that promotes and one that
holds.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .platform_api import stand_in
from .test_nightly import FILES

ROOT = Path(__file__).resolve().parent.parent
ACT = Path(sys.executable).with_name("act")
pytestmark = [pytest.mark.actions, pytest.mark.skipif(not ACT.exists(), reason="act is not installed; run make setup")]

SETUP = """name: setup-python
description: a stand-in, which also puts the stand-ins for make and mlserve in place
inputs: { python-version: { default: "" } }
runs:
  using: composite
  steps:
    - run: mkdir -p .venv/bin && cp "$STAND_INS/mlserve" .venv/bin/mlserve && echo "$STAND_INS" >> "$GITHUB_PATH"
      shell: bash
"""
MAKE = """#!/bin/sh
echo "make $@" >> "$STAND_INS/calls"
[ "$1" != "$FAILS" ]
"""
MLSERVE = """#!/bin/sh
echo "mlserve $@" >> "$STAND_INS/calls"
case "$1 $2" in
  "deploy heroku") printf 'url=https://demo.example\\nprevious=release-1\\n' >> "$GITHUB_OUTPUT" ;;
  "deploy smoke") [ "$FAILS" != smoke ] ;;
  "retrain "*) echo "accuracy rose" > "$3"; exit "${RETRAIN:-0}" ;;
esac
"""


REAL_SETUP = """name: setup-python
description: a stand-in, which also puts the environment of this run in place
inputs: { python-version: { default: "" } }
runs:
  using: composite
  steps:
    - run: ln -s "$VENV" .venv && echo "$STAND_INS" >> "$GITHUB_PATH" && echo "PYTHONPATH=$PWD" >> "$GITHUB_ENV"
      shell: bash
"""
REAL_MAKE = """#!/bin/sh
echo "make $@" >> "$STAND_INS/calls"
case " $REAL " in *" $1 "*) exec /usr/bin/make -o .venv/.ready "$@" ;; esac
"""
PINNED = (ROOT / ".github/workflows/ci.yml").read_text().split("actions/setup-python@")[1].split()[0]


def git(folder, *words):
    names = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    done = subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Actions:
    "A clone, and act to run its workflows"

    def __init__(self, folder, source, setup, programs):
        self.folder, self.clone, self.stand_ins = folder, folder / "clone", folder / "stand-ins"
        self.setup = folder / "setup"
        for made in (self.stand_ins, self.setup):
            made.mkdir()
        (self.setup / "action.yml").write_text(setup)
        for name, text in programs.items():
            (self.stand_ins / name).write_text(text)
            (self.stand_ins / name).chmod(0o755)
        git(folder, "clone", "-q", source, self.clone)
        git(self.clone, "checkout", "-qB", "main")

    def commit(self, path, text):
        "Write a file, and commit it"
        (self.clone / path).write_text(text)
        git(self.clone, "add", "-f", path)
        git(self.clone, "commit", "-qm", f"Add {path}")

    def __call__(self, event, workflow, **environ):
        "Run a workflow on an event: (exit code, what was called, what was said)"
        (self.stand_ins / "calls").write_text("")
        given = {"STAND_INS": self.stand_ins, "VENV": Path(sys.prefix), **environ}
        command = [ACT, event, "-W", f".github/workflows/{workflow}.yml", "-P", "ubuntu-latest=-self-hosted"]
        command += ["--no-cache-server", "--local-repository", f"actions/setup-python@{PINNED}={self.setup}"]
        command += ["-s", "HEROKU_API_KEY=key", "--var", "HEROKU_APP=demo"]
        command += [f"--env={name}={value}" for name, value in given.items()]
        home = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache")}
        done = subprocess.run(command, cwd=self.clone, env=home, capture_output=True, text=True, timeout=900)
        return done.returncode, (self.stand_ins / "calls").read_text().splitlines(), done.stdout + done.stderr


@pytest.fixture
def own(tmp_path):
    "A copy of this repository with this commit as its main, so that what a workflow pushes goes nowhere else"
    git(tmp_path, "clone", "-q", "--bare", ROOT, "own.git")
    git(tmp_path / "own.git", "update-ref", "refs/heads/main", "HEAD")
    return tmp_path / "own.git"


@pytest.fixture
def run(own, tmp_path):
    "The wiring: make and mlserve write down that they were called, and end as they were told to"
    return Actions(tmp_path, own, SETUP, {"make": MAKE, "mlserve": MLSERVE})


# The wiring


def test_ci_deploys_what_is_green_and_tries_it_out(run):
    code, calls, said = run("push", "ci")
    assert code == 0, said
    assert calls.count("make tests") == 4  # three Pythons, and once for the coverage
    first = next(n for n, call in enumerate(calls) if call.startswith("mlserve deploy"))
    for target in ("check", "lint", "types", "lessons", "outputs", "docs", "slug", "wheel"):
        assert f"make {target}" in calls[:first]
    assert calls[first] == "mlserve deploy heroku --app demo --no-smoke"
    assert any(c.startswith("mlserve deploy smoke https://demo.example --commit ") for c in calls[first:])
    assert not any("rollback" in c for c in calls)


@pytest.mark.parametrize("target", ["tests", "outputs", "slug"])
def test_what_is_red_is_not_deployed(run, target):
    code, calls, said = run("push", "ci", FAILS=target)
    assert code != 0 and f"make {target}" in calls, said
    assert not any(c.startswith("mlserve deploy") for c in calls)


def test_a_failed_smoke_test_rolls_back(run):
    code, calls, said = run("push", "ci", FAILS="smoke")
    assert code != 0, said
    assert calls[-1] == "mlserve deploy rollback --app demo --release release-1"


def test_a_pull_request_deploys_nothing(run):
    code, calls, said = run("pull_request", "ci")
    assert code == 0 and "make outputs" in calls, said
    assert not any(c.startswith("mlserve") for c in calls)


@pytest.mark.parametrize(
    ("event", "answer", "code"),
    [("schedule", "0", 0), ("repository_dispatch", "10", 0), ("workflow_dispatch", "12", 0), ("schedule", "6", 1)],
)
def test_the_nightly_round_promotes_holds_and_fails(run, event, answer, code):
    ended, calls, said = run(event, "train", RETRAIN=answer)
    assert (ended != 0) == bool(code), said
    assert [c.split()[1] for c in calls if c.startswith("mlserve")] == ["slug", "collect", "drift", "retrain"]


# The real commands


def test_a_red_test_stops_the_deployment(own, tmp_path):
    act = Actions(tmp_path, own, REAL_SETUP, {"make": REAL_MAKE})
    act.commit("tests/test_red.py", "def test_red():\n    assert 1 == 2\n")
    code, calls, said = act("push", "ci", REAL="tests", TESTS="tests/test_red.py")
    assert code != 0 and "assert 1 == 2" in said and "make tests" in calls
    assert "make model" not in calls and "mlserve deploy" not in said


def test_ci_is_green_and_deploys_and_a_release_that_fails_its_smoke_test_is_taken_back(own, tmp_path):
    act = Actions(tmp_path, own, REAL_SETUP, {"make": REAL_MAKE})
    with stand_in(tmp_path) as heroku:
        known = {"HEROKU_HOST": heroku.url, "TESTS": "tests/test_ids.py"}
        code, calls, said = act("push", "ci", REAL="check lint types tests model", **known)
        assert code == 0, said
        assert {"make check", "make lint", "make types", "make tests", "make model"} <= set(calls)
        assert "rows of its probe right" in said and len(heroku.releases) == 1
        act.commit("note", "the second release asks for a key that nobody was given")
        heroku.config = {"MLSERVE_ACCESS_PREDICT_KEYS": "a-key-that-nobody-was-given"}
        code, calls, said = act("push", "ci", REAL="model", **known)
        assert code != 0 and "/predict answers 401" in said and "demo is back at the release of before, as v3" in said
        assert [Path(r["slug"]["id"]).name for r in heroku.releases] == ["slug-1", "slug-2", "slug-1"]


@pytest.fixture
def wine(tmp_path):
    "A bare repository with a small project in it, and this one's workflows"
    first, hub = tmp_path / "first", tmp_path / "hub.git"
    for file, text in FILES.items():
        (first / file).parent.mkdir(parents=True, exist_ok=True)
        (first / file).write_text(text.replace("../../store", str(tmp_path / "store")))
    for part in (".github", ".ci"):
        shutil.copytree(ROOT / part, first / part)
    git(tmp_path, "init", "-q", "--bare", "-b", "main", hub)
    git(first, "init", "-q", "-b", "main")
    git(first, "add", ".")
    git(first, "commit", "-qm", "Begin")
    git(first, "push", "-q", hub, "main")
    return hub


def test_a_night_promotes_and_a_worse_model_is_held(wine, tmp_path):
    act = Actions(tmp_path, wine, REAL_SETUP, {"make": REAL_MAKE})
    code, calls, said = act("schedule", "train")
    assert code == 0 and "A new model was made." in said and calls == ["make setup"], said
    assert git(wine, "tag").split() == ["wine#prod#1", "wine@v1.0.0"]
    git(act.clone, "pull", "-q", "--tags", "origin", "main")
    act.commit("params.yaml", "wine:\n  pipeline:\n    C: 0.000001\n")
    git(act.clone, "push", "-q", "origin", "main")
    code, _, said = act("workflow_dispatch", "train")
    assert code == 0 and "The new model is held back by the gate." in said, said
    assert "**by hand**: the workflow was run by hand" in said
    assert git(wine, "tag").split() == ["wine#prod#1", "wine@v1.0.0"]
