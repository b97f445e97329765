"""The workflows as they stand, run by act on this machine, with stand-ins for the actions, for make and for mlserve

What is proven is the wiring: which job runs after what came of which. What the targets and commands do is tested elsewhere.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
  "deploy heroku") printf 'url=https://demo.example\\nprevious=release-1\\nprobe=null\\n' >> "$GITHUB_OUTPUT" ;;
  "deploy smoke") [ "$FAILS" != smoke ] ;;
  "retrain "*) echo "accuracy rose" > "$3"; exit "${RETRAIN:-0}" ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    "Run a workflow on an event: (exit code, what was called, what was said)"
    stand_ins = tmp_path / "stand-ins"
    (tmp_path / "setup").mkdir()
    stand_ins.mkdir()
    (tmp_path / "setup/action.yml").write_text(SETUP)
    for name, text in {"make": MAKE, "mlserve": MLSERVE}.items():
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", "--bare", ROOT, tmp_path / "hub.git"], check=True)
    subprocess.run(["git", "clone", "-q", tmp_path / "hub.git", clone], check=True)
    subprocess.run(["git", "checkout", "-qB", "main"], cwd=clone, check=True)
    setup = (clone / ".github/workflows/ci.yml").read_text().split("actions/setup-python@")[1].split()[0]

    def act(event, workflow, **environ):
        (stand_ins / "calls").write_text("")
        given = {"STAND_INS": str(stand_ins), **environ}
        command = [
            ACT,
            event,
            "-W",
            f".github/workflows/{workflow}.yml",
            "-P",
            "ubuntu-latest=-self-hosted",
            "--no-cache-server",
        ]
        command += [
            "--local-repository",
            f"actions/setup-python@{setup}={tmp_path / 'setup'}",
            "-s",
            "HEROKU_API_KEY=k",
        ]
        command += ["--var", "HEROKU_APP=demo", *(f"--env={k}={v}" for k, v in given.items())]
        home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(command, cwd=clone, env=home, capture_output=True, text=True, timeout=240)
        return done.returncode, (stand_ins / "calls").read_text().splitlines(), done.stdout + done.stderr

    return act


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
