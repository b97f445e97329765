"What a dyno finds: the files of the slug, and the web process under its conditions"

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import pytest
import uvloop

from mlserve.archive import is_ignored, read_slugignore
from mlserve.bundle import find_bundle
from mlserve.settings import load_settings
from mlserve.slug import over_budget, predict_slug
from tests.conftest import environment, free_port, mlserve

ROOT = Path(__file__).resolve().parents[2]
HONCHO = Path(sys.executable).with_name("honcho")
BARE = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}


def test_requirements_are_flat_pinned_and_hashed():
    text = (ROOT / "requirements.txt").read_text()
    blocks = [block for block in re.split(r"\n(?=\S)", text) if not block.startswith("#")]
    for block in blocks:
        assert re.fullmatch(r"[a-z0-9-]+==\S+( \\\n +--hash=sha256:[0-9a-f]{64})+\n?", block), block
    names = {block.partition("==")[0] for block in blocks}
    assert {"fastapi", "uvicorn", "starlette"} <= names
    assert not names & {"scikit-learn", "numpy", "pandas", "scipy", "dvc", "nbdev", "skops", "matplotlib"}


def test_stale_requirements_are_told(tmp_path):
    for name in (".ci", "settings.ini", ".python-version", "requirements.txt"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    check = [sys.executable, ".ci/requirements.py", "--check"]
    assert subprocess.run(check, cwd=tmp_path).returncode == 0
    settings = (tmp_path / "settings.ini").read_text()
    (tmp_path / "settings.ini").write_text(settings.replace("requirements =\n", "requirements =\n    numpy\n", 1))
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "make requirements" in done.stderr


def test_the_build_finds_one_list_of_requirements():
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    locks = {"requirements.txt", "uv.lock", "poetry.lock", "Pipfile.lock", "Pipfile", "runtime.txt"}
    assert locks & set(tracked) == {"requirements.txt"}


def test_slugignore_leaves_what_is_needed():
    patterns = read_slugignore((ROOT / ".slugignore").read_text())
    assert patterns and all(re.fullmatch(r"/[\w./-]+", p) for p in patterns)
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).split()
    kept = [p for p in tracked if not is_ignored(p, patterns)]
    needed = {"Procfile", "requirements.txt", ".python-version", "main.py", "settings.ini", "setup.py", "README.md"}
    assert needed | {"bin/post_compile", "mlserve/_walk.c", "mlserve/app.py"} <= set(kept)
    assert {p for p in tracked if p.startswith("mlserve/")} <= set(kept)
    assert not [p for p in kept if p.startswith(("tests/", "nbs/", "docs/"))]


def test_the_literals_of_the_heroku_files():
    described = json.loads((ROOT / "app.json").read_text())
    assert described["buildpacks"] == [{"url": "heroku/python"}]
    assert all("value" not in variable for variable in described["env"].values())  # no secret has a default
    assert os.access(ROOT / "bin/post_compile", os.X_OK)
    assert (ROOT / ".python-version").read_text().strip() in ("3.11", "3.12", "3.13")


@contextmanager
def dyno(folder, procfile, **environment):
    "A Procfile under honcho, in an environment that holds nothing else"
    (folder / "Procfile").write_text(procfile)
    shutil.copy(ROOT / "main.py", folder)
    port = free_port()
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [HONCHO, "start", "web"],
            cwd=folder,
            env=BARE | {"PORT": str(port), "DYNO": "web.1"} | environment,
            stdout=log,
            stderr=log,
        )
        everybody = []
        try:
            await_ready(process, port, folder / "log")
            everybody = psutil.Process(process.pid).children(recursive=True)
            yield process, port, everybody
        finally:
            for one in [psutil.Process(process.pid), *everybody] if process.poll() is None else []:
                try:
                    one.kill()
                except psutil.NoSuchProcess:
                    pass
            process.wait(timeout=60)


def await_ready(process, port, log):
    last = time.monotonic() + 120  # a dyno has 60 s; a machine that is busy with other tests may take longer
    while time.monotonic() < last:
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5) as answer:
                if answer.status == 200:
                    return
        except (URLError, OSError):
            time.sleep(0.05)
    raise AssertionError(log.read_text())


def is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def listening(everybody, port):
    "Addresses on which these processes listen, at this port"
    return {
        c.laddr.ip for p in everybody for c in p.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"
    }


OURS = (ROOT / "Procfile").read_text()


@pytest.mark.parametrize(
    ("procfile", "workers"),
    [(OURS, "2"), ("web: uvicorn main:app\n", "2"), ("web: uvicorn main:app\n", "1")],
    ids=["ours", "the course's, two workers", "the course's"],
)
def test_a_procfile_serves_on_every_address_and_stops_in_time(census, procfile, workers):
    with dyno(census, procfile, WEB_CONCURRENCY=workers) as (process, port, everybody):
        assert listening(everybody, port) == {"0.0.0.0"}
        example = json.load(urlopen(f"http://127.0.0.1:{port}/model", timeout=60))["example"]
        with urlopen(f"http://127.0.0.1:{port}/", timeout=60) as greeting:
            assert greeting.status == 200
        body = json.dumps(example).encode()
        asked = Request(f"http://127.0.0.1:{port}/predict", body, {"Content-Type": "application/json"})
        for _ in range(10):
            assert json.load(urlopen(asked, timeout=60))["label"] in ("<=50K", ">50K")
        last = time.monotonic() + 30  # then Heroku kills what is left
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
        while left := [p for p in everybody if is_alive(p)]:
            assert time.monotonic() < last, left
            time.sleep(0.02)
        assert "Traceback" not in (census / "log").read_text()


def test_the_model_is_verified_as_it_is_baked_in(census):
    told = mlserve(census, "slug", "bake")
    assert told.returncode == 0 and "is in the slug, verified" in told.stdout
    plan = find_bundle(census / "models") / "plan.bin"
    data = plan.read_bytes()
    plan.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    told = mlserve(census, "slug", "bake")
    assert told.returncode == 6 and "plan.bin" in told.stderr
    shutil.rmtree(census / "models")
    told = mlserve(census, "slug", "bake")
    assert told.returncode == 7 and "mlserve train" in told.stderr


def test_symbols_for_debuggers_are_taken_out_of_one_place_only(tmp_path):
    packages = shutil.copytree(Path(uvloop.__file__).parent, tmp_path / "packages/uvloop").parent
    [module] = (packages / "uvloop").glob("loop.*.so")
    before, kept = module.read_bytes(), tmp_path / "kept.so"
    (packages / "odd.libs").mkdir()
    brought = packages / "odd.libs/brought.so"
    for elsewhere in (kept, brought):
        os.link(module, elsewhere)
    (packages / "no-library.so").write_text("nothing that strip knows")
    told = mlserve(tmp_path, "slug", "strip", packages, "--json")
    saved = json.loads(told.stdout)["mb"]
    assert told.returncode == 0 and saved > 5
    assert kept.read_bytes() == before == brought.read_bytes()
    assert len(before) - module.stat().st_size == pytest.approx(saved * 1e6, abs=6e4)
    assert sorted(p.name for p in packages.iterdir()) == ["no-library.so", "odd.libs", "uvloop"]
    run = [sys.executable, "-c", "import uvloop, asyncio; print(uvloop.__file__); uvloop.run(asyncio.sleep(0))"]
    done = subprocess.run(run, env=environment(PYTHONPATH=packages), capture_output=True, text=True)
    assert done.stdout.startswith(str(packages)) and done.returncode == 0, done.stderr
    assert json.loads(mlserve(tmp_path, "slug", "strip", packages, "--json").stdout)["mb"] == 0
    wrong = mlserve(tmp_path, "slug", "strip", tmp_path / "none")
    assert wrong.returncode == 16 and "there is no folder none of installed packages" in wrong.stderr


@pytest.mark.slow
def test_the_slug_of_this_commit_is_within_its_budgets(census, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    shutil.copytree(census / "models", clone / "models")
    settings = load_settings(clone, environ={})
    made = predict_slug(settings)
    assert over_budget(made, settings.slug) == ()
    assert 30 < made.mb < 60 and [run.workers for run in made.runs] == [1, 2]
    assert 20 < made.runs[0].memory_mb < made.runs[1].memory_mb < 400
