"The project's own DVC files work in a fresh checkout without a remote"

import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import environment

ROOT = Path(__file__).resolve().parent.parent
KEPT = (".dvc/config", ".dvc/.gitignore", ".dvcignore", "dvc.yaml", "dvc.lock", "params.yaml", "settings.ini")


def test_the_working_copy_of_the_data_is_tracked(tmp_path):
    for name in (*KEPT, "mlserve/data/adult.parquet", "mlserve/examples/census.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    binaries = str(Path(sys.executable).parent)
    env = environment(PATH=f"{binaries}:/usr/bin:/bin", GIT_CONFIG_GLOBAL="/dev/null", HOME=tmp_path)

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("git", "init", "-q")
    before = (tmp_path / "dvc.lock").read_bytes()
    run("dvc", "repro", "-q", "data")
    assert (tmp_path / "data" / "census.parquet").read_bytes() == (ROOT / "mlserve/data/adult.parquet").read_bytes()
    assert (tmp_path / "dvc.lock").read_bytes() == before
    assert "up to date" in run("dvc", "status", "data")
