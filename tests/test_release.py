"Killed at any step, a release is completed or undone by the next; nothing is ever half released"

import shutil
from dataclasses import replace

import pytest

from mlserve import release as module
from mlserve.bundle import read_bundle
from mlserve.registry import git, read_events, released, tracked_at
from mlserve.release import STEPS, recover, release
from mlserve.retrain import train
from mlserve.settings import Gate, load_settings
from mlserve.store import check_objects, find_remote, manifest_digest, open_store, read_dvc

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of a library that DVC uses
LENIENT = Gate(margin=1, loss_margin=1000, slice_margin=1000, fairness_margin=1000)


class Killed(BaseException):
    "Stands for a process that is gone: nobody handles it"


@pytest.fixture
def project(projects, tmp_path, monkeypatch):
    "A wine project in git and DVC, trained, and nothing released"
    root = shutil.copytree(projects["wine"], tmp_path / "wine")
    (root / ".gitignore").write_text("/models/*\n!/models/*.dvc\n/store/\n/cache/\n")
    (root / "params.yaml").write_text("wine:\n  pipeline:\n    C: 1.0\n")
    (root / ".dvc").mkdir()
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    config = "[core]\n    analytics = false\n    remote = r\n['remote \"r\"']\n    url = ../store\n    verify = true\n"
    (root / ".dvc" / "config").write_text(config)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    git(root, "init", "-q")
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    git(root, "add", ".")
    git(root, "commit", "-qm", "Begin")
    return replace(load_settings(root, environ={}), gate=LENIENT)


def retrained(project, number):
    "Another trained bundle"
    (project.root / "params.yaml").write_text(f"wine:\n  pipeline:\n    C: {1 + number / 10}\n")
    git(project.root, "commit", "-qam", f"Try {number}")
    return train(project)


def state(project):
    root = project.root
    tracked = {p: (root / p).read_text() for p in ("dvc.yaml", "models/wine.dvc") if (root / p).exists()}
    bundle = read_bundle(root / "models" / "wine")
    card = bundle.read("model_card.md")
    return (
        tracked,
        git(root, "rev-parse", "HEAD"),
        git(root, "tag"),
        git(root, "status", "--porcelain"),
        bundle.manifest,
        card,
    )


def whole(project, version):
    "The release is complete: tag, commit, .dvc file, bundle and store say the same"
    event = released(read_events(project.root, "wine"))[version]
    tracked = tracked_at(project, event)
    assert event.commit == git(project.root, "rev-parse", "HEAD").strip()
    assert read_dvc((project.root / "models" / "wine.dvc").read_text()) == tracked
    assert set(check_objects(open_store(find_remote(project)), tracked).values()) == {"verified"}
    bundle = read_bundle(project.root / "models" / "wine")
    assert bundle.manifest.version == version
    assert f"wine {version}\n" in bundle.read("model_card.md").decode()
    assert event.notes["Manifest-SHA256"] == manifest_digest(bundle.folder)
    assert git(project.root, "status", "--porcelain") == ""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", range(len(STEPS)))
def test_killed_at_any_step_it_is_completed_or_undone(project, monkeypatch, number, when):
    release(project)
    retrained(project, 1)
    before, step = state(project), STEPS[number]

    def killed(*args):
        if when == "after":
            step(*args)
        raise Killed

    monkeypatch.setattr(module, "STEPS", (*STEPS[:number], killed, *STEPS[number + 1 :]))
    with pytest.raises(Killed):
        release(project)
    monkeypatch.setattr(module, "STEPS", STEPS)
    said = recover(project)
    committed = number > 5 or (number, when) == (5, "after")
    if committed:
        version = list(released(read_events(project.root, "wine")))[-1]
        assert said == f"the release of wine@v{version} was cut off and is now complete"
        whole(project, version)
    else:
        assert state(project) == before
        assert ("is undone" in said) == ((number, when) != (0, "before"))
        again = release(project)
        assert again.done == "released"
        whole(project, again.version)
    assert recover(project) == ""
    assert len(released(read_events(project.root, "wine"))) == 2


@pytest.mark.parametrize("number", range(1, len(STEPS)))
def test_a_failure_undoes_everything_at_once(project, monkeypatch, number):
    before = state(project)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "STEPS", (*STEPS[:number], fail, *STEPS[number + 1 :]))
    with pytest.raises(OSError, match="no space left"):
        release(project)
    if number == 6:  # the commit is made: all that is missing is the tag, and it is added
        whole(project, "1.0.0")
    else:
        assert state(project) == before


def test_a_release_commits_only_its_own_files(project):
    (project.root / "params.yaml").write_text("wine:\n  pipeline:\n    C: 2.0\n")
    (project.root / "staged.txt").write_text("mine")
    git(project.root, "add", "staged.txt")
    release(project)
    assert git(project.root, "show", "--name-only", "--format=").split() == ["dvc.yaml", "models/wine.dvc"]
    assert git(project.root, "status", "--porcelain") == " M params.yaml\nA  staged.txt\n"
    assert released(read_events(project.root))["1.0.0"].notes["Uncommitted"] == "params.yaml, staged.txt"
