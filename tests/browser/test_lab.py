"""A notebook edited as a person does: the real JupyterLab in a real browser; then export, test and serve show the change.

`make test-lab` runs it; JupyterLab and its kernel, the export, the tests of the project and a service take their time.
"""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from urllib.request import Request, urlopen

import nbformat
import pytest

from mlserve.scaffold import create
from tests.conftest import MLSERVE, Service, environment, free_port
from tests.new_data import flats

pytestmark = [pytest.mark.browser, pytest.mark.lab]
PURPOSE = "So that a buyer knows what others paid."


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "The folder of a new project, beside whose `make` nothing is left to install: it uses what runs this test"
    folder = tmp_path_factory.mktemp("lab")
    path, target, _ = flats(folder)
    made = create("flats", path, target, folder, pinned=False)
    assert made.notes == ()
    (made.folder / ".venv").symlink_to(MLSERVE.parent.parent)
    return made.folder


def at(project):
    return environment(PYTHONPATH=project, JUPYTER_TOKEN="of-this-test", OMP_NUM_THREADS=1)


def make(project, *words):
    "Run a target of the project's Makefile, in what is installed already"
    command = ["make", "-o", ".venv/.ready", *words]
    done = subprocess.run(command, cwd=project, env=at(project), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def lab(project):
    "Address of `make lab`; it asks no other host for news, and opens no window of its own"
    port = free_port()
    quiet = "--no-browser --LabApp.news_url= --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    args = f"{quiet} --LabApp.extension_manager=readonly --ServerApp.port={port} --allow-root"
    command = ["make", "-o", ".venv/.ready", "lab", f"ARGS={args}"]
    with (
        (project.parent / "lab.log").open("w+") as log,
        subprocess.Popen(command, cwd=project, env=at(project), stdout=log, stderr=log, start_new_session=True) as run,
    ):
        url = f"http://127.0.0.1:{port}"
        until(lambda: answers(url) or run.poll() is not None, "JupyterLab answers")
        assert run.poll() is None, Path(log.name).read_text(encoding="utf-8")
        yield url
        os.killpg(run.pid, signal.SIGTERM)


def until(true, what):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, f"waited a minute until {what}"
        time.sleep(0.2)


def answers(url):
    try:
        urlopen(f"{url}/api", timeout=5).close()
    except OSError:
        return False
    return True


def saved(project):
    return nbformat.read(project / "nbs/00_model.ipynb", as_version=4)


def edit(page, cell, old, new):
    "Replace text in a cell, as one who selects it all and pastes"
    source = next(c.source for c in cell.cells if old in c.source)
    shown = page.locator(".jp-CodeCell", has_text=old).first
    shown.locator(".cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(source.replace(old, new))


def answer(service, row):
    request = Request(f"{service.url}/predict", json.dumps(row).encode(), {"content-type": "application/json"})
    with urlopen(request, timeout=60) as told:
        return json.load(told)["value"]


def served(project):
    "The answer to one flat, and the model card"
    row = {"Verkauft": "2021-05-01", "Fläche": 80.0, "Zimmer": 3, "Lage": "Nord", "Balkon": "ja"}
    service = Service(project, MLSERVE_SERVE_DRAIN=0.1, PYTHONPATH=project)
    try:
        with urlopen(f"{service.url}/model/card", timeout=60) as card:
            return answer(service, row), card.read().decode()
    finally:
        service.stop()


def test_what_is_changed_in_jupyterlab_is_exported_tested_and_served(page, heard, lab, project):
    make(project, "train")
    before, card = served(project)
    assert PURPOSE not in card
    page.set_default_timeout(120_000)
    page.goto(f"{lab}/lab/tree/00_model.ipynb?token=of-this-test")
    page.locator(".jp-NotebookPanel .jp-CodeCell").first.wait_for()
    was = saved(project)
    count = sum(c.cell_type == "code" for c in was.cells)
    edit(page, was, "max_iter: int = 100", "max_iter: int = 3")
    edit(page, was, "Not yet written: who uses the answers, and for what.", PURPOSE)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    last = page.locator(".jp-CodeCell").last  # out of sight, which JupyterLab does not draw
    last.get_by_text(re.compile(rf"^\[{count}\]:$")).wait_for(state="attached")
    page.keyboard.press("Control+s")
    until(lambda: PURPOSE in str(saved(project)), "the notebook is saved")
    now = [c for c in saved(project).cells if c.cell_type == "code"]
    assert any("max_iter: int = 3" in c.source for c in now)
    assert [c.execution_count for c in now] == [*range(1, count + 1)]  # all ran, in order
    assert [o for c in now for o in c.outputs if o.output_type == "error"] == []
    make(project, "export")
    module = (project / "flats/model.py").read_text(encoding="utf-8")
    assert "max_iter: int = 3," in module and PURPOSE in module
    make(project, "tests")
    make(project, "train")
    after, card = served(project)
    assert abs(after - before) > 0.01 * before and PURPOSE in card
