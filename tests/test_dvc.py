"The project's own DVC files work in a fresh checkout without a remote"

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import environment

ROOT = Path(__file__).resolve().parent.parent
KEPT = (".dvc/config", ".dvc/.gitignore", ".dvcignore", "dvc.yaml", "dvc.lock", "params.yaml", "settings.ini")
DATA = ("mlserve/data/adult.parquet", "mlserve/examples/census.py")


@pytest.fixture
def checkout(tmp_path):
    "What runs a command in a fresh checkout, and returns what it said"
    for name in (*KEPT, *DATA, ".gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    binaries = str(Path(sys.executable).parent)
    identity = {f"GIT_{r}_{k}": v for r in ("AUTHOR", "COMMITTER") for k, v in (("NAME", "Ada"), ("EMAIL", "a@b.org"))}
    env = environment(PATH=f"{binaries}:/usr/bin:/bin", GIT_CONFIG_GLOBAL="/dev/null", HOME=tmp_path.parent, **identity)

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git", "init", "-q")
    return run


def test_the_working_copy_of_the_data_is_tracked(checkout, tmp_path):
    before = (tmp_path / "dvc.lock").read_bytes()
    checkout("dvc", "repro", "-q", "data")
    assert (tmp_path / "data" / "census.parquet").read_bytes() == (ROOT / "mlserve/data/adult.parquet").read_bytes()
    assert (tmp_path / "dvc.lock").read_bytes() == before
    assert "up to date" in checkout("dvc", "status", "data")


@pytest.mark.parametrize("file", ["models/census.dvc", "data/census-increments.dvc"])
def test_commands_for_the_whole_project_see_what_is_released_and_collected(checkout, tmp_path, file):
    name = Path(file).stem
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(f"outs:\n- md5: {'0' * 32}.dir\n  hash: md5\n  path: {name}\n")
    assert file in checkout("dvc", "status")  # and so does `dvc push`, and `dvc gc` leaves it alone


@pytest.mark.slow
def test_the_pipeline_runs_compares_and_experiments_beside_what_is_released(checkout, tmp_path):
    checkout("dvc", "repro", "-q")
    assert "up to date" in checkout("dvc", "status")
    assert not (tmp_path / "models").exists()
    checkout("git", "add", ".")
    checkout("git", "commit", "-qm", "first run")

    released = json.loads(checkout("mlserve", "release", "--folder", "trained", "--json"))
    assert (released["done"], released["version"]) == ("released", "1.0.0")
    model = {p.name: p.read_bytes() for p in (tmp_path / "models/census").iterdir() if p.is_file()}
    assert "up to date" in checkout("dvc", "status")

    params = tmp_path / "params.yaml"
    params.write_text(params.read_text() + "  pipeline:\n    max_iter: 40\n")
    checkout("dvc", "repro", "-q")
    changed = json.loads(checkout("dvc", "metrics", "diff", "--json"))["reports/census/metrics.json"]
    assert -0.05 < changed["roc_auc"]["diff"] < 0  # fewer trees
    drawn = checkout("dvc", "plots", "diff", "--json")
    assert "roc" in drawn
    assert {p.name: p.read_bytes() for p in (tmp_path / "models/census").iterdir() if p.is_file()} == model

    checkout("git", "checkout", "-q", "--", "params.yaml", "dvc.lock")
    checkout("dvc", "checkout", "-q")
    checkout("dvc", "exp", "run", "-q", "-S", "census.held_out=0.3")
    (experiment,) = checkout("dvc", "exp", "list", "--name-only").split()
    told = json.loads(checkout("dvc", "exp", "diff", "HEAD", experiment, "--json"))
    assert told["params"]["params.yaml"]["census.held_out"] == {"old": 0.2, "new": 0.3, "diff": pytest.approx(0.1)}
    assert told["metrics"]["reports/census/metrics.json"]["rows"]["new"] > 0
