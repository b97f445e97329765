"A round may be cut off anywhere and walked again; brakes hold; nothing is changed by a dry run"

import json
import resource
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from mlserve import loop
from mlserve.errors import MlserveError
from mlserve.loop import retrain
from mlserve.registry import git, in_service, promote, read_events, rollback
from mlserve.release import release
from mlserve.remote import Folder
from mlserve.retrain import train
from mlserve.rounds import read_rounds
from mlserve.settings import Gate, load_settings
from mlserve.store import read_pointer

from .conftest import mlserve

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of a library that DVC uses
DAY = 86_400.0


class Cut(BaseException):
    "The machine stops"


@pytest.fixture(autouse=True)
def identity(monkeypatch):
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")


@pytest.fixture
def wine(tmp_path):
    "A repository with the wine recipe and a store in a folder"
    files = {
        "settings.ini": "[model]\nrecipe = mlserve.examples.wine:recipe\n[compare]\nrefits = 0\n",
        ".gitignore": "/models/?*\n!/models/*.dvc\n/store/\n/cache/\n/reports/\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".dvc/config": "[core]\n    remote = team\n['remote \"team\"']\n    url = ../store\n    verify = true\n",
    }
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "Begin")
    return load_settings(tmp_path, environ={})


def served(settings):
    "What the registry and the store say is in service"
    event = in_service(read_events(settings.root, "wine"), "prod")
    pointer = read_pointer(Folder(settings.root / "store"), "wine", "prod")
    assert (event and event.version) == (pointer and pointer.version)
    return event and event.version


SLOW = [
    pytest.param(where, marks=pytest.mark.slow) for where in ("collect", "look", "remember", "train", "write_report")
]


@pytest.mark.parametrize("where", ["release", "promote", *SLOW])
def test_a_round_that_was_cut_off_is_finished_by_the_next(wine, monkeypatch, where):
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(loop, {"collect": "_collect"}.get(where, where), cut)
        retrain(wine, now=1e9)
    again = retrain(wine, now=1e9 + 60)  # a minute later: no pause after what was cut off
    if where == "write_report":  # the model was in service by then
        assert again.exit_code == 12
    else:
        assert (again.result, again.version, again.promoted) == ("released", "1.0.0", "prod")
    assert served(wine) == "1.0.0"
    assert git(wine.root, "tag").split() == ["wine#prod#1", "wine@v1.0.0"]
    assert retrain(wine, now=1e9 + 120).exit_code == 12
    assert read_rounds(Folder(wine.root / "store"), "wine")[-1].result


def test_a_round_that_fails_each_time_ends(wine, monkeypatch):
    def fail(*_, **__):
        raise MlserveError("out of memory")

    monkeypatch.setattr(loop, "train", fail)
    for minute in range(3):
        with pytest.raises(MlserveError, match="out of memory"):
            retrain(wine, now=1e9 + 60 * minute)
    done = retrain(wine, now=1e9 + 300)
    assert done.exit_code == 12 and "3 rounds began" in done.why
    assert retrain(wine, asked="I insist", now=1e9 + 360).exit_code == 12
    with pytest.raises(MlserveError, match="out of memory"):
        retrain(wine, now=1e9 + DAY + 200)


def test_a_round_that_fails_is_remembered_as_such(wine, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(loop, "train", lambda *_: raises("no memory"))
        retrain(wine, now=1e9)
    (past,) = read_rounds(Folder(wine.root / "store"), "wine")
    assert (past.result, past.says) == ("failed", "no memory")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(loop, "promote", lambda *_: raises("the store is away"))
        retrain(wine, now=1e9 + 60)  # no pause after what failed
    assert served(wine) is None
    again = retrain(wine, now=1e9 + 120)
    assert (again.version, again.promoted) == ("1.0.0", "prod") and "cut off after its release" in again.why
    assert served(wine) == "1.0.0"


def raises(text):
    raise RuntimeError(text)


@pytest.mark.parametrize("by", ["a person", "the round"])
def test_what_a_person_did_since_is_left_alone(wine, monkeypatch, by):
    lenient = replace(wine, gate=Gate(margin=1, loss_margin=1000, slice_margin=1000, fairness_margin=1000))
    store = Folder(wine.root / "store")
    assert retrain(lenient, now=1e9).promoted == "prod"
    (wine.root / "params.yaml").write_text("wine:\n  pipeline:\n    C: 0.5\n")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        patch.setattr(loop, "train" if by == "a person" else "promote", cut)
        retrain(lenient, asked="try", now=1e9 + DAY)
    if by == "a person":
        release(lenient, train(lenient).folder)
    promote(wine, store, "wine", "1.0.1", "prod")
    rollback(wine, store, "wine", "prod")
    (past,) = read_rounds(store, "wine")[1:]
    assert past.result == "" and loop.finish(lenient, store, "wine", past) is None
    assert served(wine) == "1.0.0"
    monkeypatch.setattr(loop, "what_moved", lambda *_: ("the rows moved",))
    if by == "the round":  # and what it made is not made again
        done = retrain(lenient, now=1e9 + 2 * DAY)
        assert done.exit_code == 12 and "released as 1.0.1, which is not in service" in done.why


def cut(*_, **__):
    raise Cut


def test_two_rounds_at_once(wine):
    with loop._alone(wine), pytest.raises(MlserveError, match="another round is under way"):
        retrain(wine)


def test_a_new_major_version_waits_for_a_person(wine):
    assert loop._goes_live(wine, "", "1.0.0") and loop._goes_live(wine, "1.4.0", "1.5.0")
    assert not loop._goes_live(wine, "1.4.0", "2.0.0")


# The command


def told(folder, code, *args):
    "What `mlserve retrain` says as JSON"
    done = mlserve(folder, "retrain", "--json", *args)
    assert done.returncode == code, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["exit_code"] == code
    return said


@pytest.mark.slow
def test_the_command_tells_workflows_what_came_of_it(wine):
    folder = wine.root
    first = told(folder, 0)
    assert (first["result"], first["version"], first["promoted"]) == ("released", "1.0.0", "prod")
    again = mlserve(folder, "retrain")
    assert again.returncode == 12 and again.stdout == "wine: nothing to do: there is no reason for a new model\n"
    (folder / "params.yaml").write_text("wine:\n  pipeline:\n    C: 0.0001\n")
    before = git(folder, "rev-parse", "HEAD"), git(folder, "tag"), served(wine)
    tried = told(folder, 10, "--why", "fewer numbers", "--dry-run", "--report", "report.md")
    assert tried["dry_run"] and tried["triggers"][0] == {"kind": "by hand", "says": "fewer numbers"}
    assert "### May it replace the model in service?" in (folder / "report.md").read_text()
    held = told(folder, 10, "--why", "fewer numbers")
    assert held["verdict"]["decision"] == "hold" and held["version"] == ""
    assert (git(folder, "rev-parse", "HEAD"), git(folder, "tag"), served(wine)) == before
    page = (folder / "reports/wine-retrain/report.html").read_text()
    assert page.count("data:image/png;base64,") > 3 and "<script" not in page


@pytest.mark.slow
def test_a_round_of_the_default_model_takes_less_than_90_seconds(wine):
    folder = wine.root
    (folder / "settings.ini").write_text("[model]\nrecipe = mlserve.examples.census:recipe\n")
    took, spent = [], [cpu_of_commands()]
    for params, args in (("", ()), ("census:\n  pipeline:\n    max_iter: 90\n", ("--why", "fewer trees"))):
        (folder / "params.yaml").write_text(params)
        began = time.monotonic()
        assert told(folder, 0, *args)["promoted"] == "prod"  # trained, judged, released, reported
        took.append(time.monotonic() - began)
        spent.append(cpu_of_commands())
    cpu = [after - before for before, after in pairwise(spent)]  # which, unlike the clock, knows of no neighbours
    print(f"rounds of {took[0]:.1f} and {took[1]:.1f} seconds, {cpu[0]:.1f} and {cpu[1]:.1f} of CPU")
    assert max(cpu) < 90


def cpu_of_commands():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
