"The wheel holds everything, and installs and serves where nothing of training is"

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mlserve import walk

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    copied = folder / "source"
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copied / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copied / name)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--installer", "uv", "-o", folder / "dist", copied],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (folder / "dist").glob("*.whl")  # made from the sdist, so that holds everything too
    return built


def test_the_wheel_holds_every_module_and_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {str(p.relative_to(ROOT)) for p in (ROOT / "mlserve").rglob("*.py")}
    wanted |= {str(p.relative_to(ROOT)) for folder in ("data", "static") for p in (ROOT / "mlserve" / folder).iterdir()}
    assert {w for w in wanted if "__pycache__" not in w} <= names
    assert not [n for n in names if n.startswith(("tests/", "nbs/", "docs/"))]
    if shutil.which("cc"):
        assert [n for n in names if re.fullmatch(r"mlserve/_walk\..*(so|pyd)", n)]


def test_where_there_is_a_compiler_the_walk_is_compiled():
    if shutil.which("cc") is None:
        pytest.skip("there is no compiler")
    assert walk._walk is not None


def test_a_clean_install_without_the_training_libraries_imports_the_serving_side(wheel, tmp_path):
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, tmp_path / "env"], check=True)
    subprocess.run([UV, "pip", "install", "-q", "--python", python, wheel], check=True, timeout=300)
    code = "import mlserve.pages, mlserve.serve, mlserve.cli, importlib.util as u; print(u.find_spec('numpy'))"
    assert subprocess.check_output([python, "-c", code], text=True).strip() == "None"
    told = subprocess.run(
        [tmp_path / "env/bin/mlserve", "doctor", "--json"], cwd=tmp_path, capture_output=True, text=True
    )
    states = {f["name"]: f["state"] for f in json.loads(told.stdout)}
    assert states["libraries"] == "warn" and states["settings"] == "ok"
    assert "Traceback" not in told.stderr
