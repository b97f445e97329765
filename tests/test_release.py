"Killed at any step, a release is completed or undone by the next; nothing is ever half released"

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from mlserve import release as module
from mlserve.bundle import Manifest, dump, read_bundle, unreleased, write_bundle
from mlserve.cli import app
from mlserve.contract import to_json
from mlserve.data import make_table
from mlserve.lineage import lineage_files
from mlserve.persist import dump_pipeline
from mlserve.recipe import Params, find_recipe
from mlserve.registry import NoRepository, git, promote, read_events, released, rollback, tracked_at
from mlserve.release import STEPS, ReleaseError, best_before, face, recover, release
from mlserve.remote import StoreError, find_remote, open_store
from mlserve.retrain import train
from mlserve.settings import Gate, load_settings
from mlserve.store import check_objects, manifest_digest, object_path, read_dvc
from mlserve.train import fit
from tests.conftest import MLSERVE, Service, environment, make_project, mlserve

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of a library that DVC uses
LENIENT = Gate(margin=1, loss_margin=1000, slice_margin=1000, fairness_margin=1000)


class Killed(BaseException):
    "Stands for a process that is gone: nobody handles it"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = make_project(tmp_path_factory.mktemp("trained") / "wine", "wine")
    train(load_settings(folder, environ={}))
    return folder


def begin(root, monkeypatch):
    "Put a project into git and DVC"
    (root / ".gitignore").write_text("/models/?*\n!/models/*.dvc\n/store/\n/cache/\n__pycache__/\n")
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


@pytest.fixture
def project(trained, tmp_path, monkeypatch):
    "A wine project in git and DVC, trained, and nothing released"
    root = shutil.copytree(trained, tmp_path / "wine")
    (root / "params.yaml").write_text("wine:\n  pipeline:\n    C: 1.0\n")
    begin(root, monkeypatch)
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


MOMENTS = [(number, when) for number in range(len(STEPS)) for when in ("before", "after")]
TELLING = [(2, "after"), (5, "after")]  # one that is undone and one that is completed; all others take a minute


@pytest.mark.parametrize(
    ("number", "when"), [pytest.param(*m, marks=[] if m in TELLING else [pytest.mark.slow]) for m in MOMENTS]
)
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


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[] if n in (2, 6) else [pytest.mark.slow]) for n in range(1, len(STEPS))]
)
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


def elsewhere(project, number):
    "Another bundle, trained in a folder of its own"
    (project.root / "params.yaml").write_text(f"wine:\n  pipeline:\n    C: {1 + number / 10}\n")
    git(project.root, "commit", "-qam", f"Try {number}")
    return train(replace(project, model=replace(project.model, folder=Path("cache")))).folder


def killing(owner, name, after=False):
    "Stands for a function within which the process is killed"
    real = getattr(owner, name)

    def killed(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise Killed

    return owner, name, killed


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [(module.shutil, "copytree", False), (module.shutil, "copytree", True), (module, "_set_aside", True)]
    + [(module, "write_bundle", after) for after in (False, True)],
)
def test_killed_while_a_bundle_that_was_trained_elsewhere_takes_its_place(project, monkeypatch, owner, name, after):
    release(project)
    trained = elsewhere(project, 1)
    before = state(project)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*killing(owner, name, after))
        release(project, trained)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*killing(module, "_put_back", after))
        recover(project)
    assert recover(project) == "the release of wine@v1.0.1 was cut off and is undone"
    assert state(project) == before
    whole(project, release(project, trained).version)
    assert sorted(p.name for p in (project.root / "models").iterdir()) == ["wine", "wine.dvc"]


@pytest.mark.parametrize("first", [True, False])
def test_a_store_that_is_down_leaves_nothing_of_what_was_trained_elsewhere(project, monkeypatch, first):
    models = project.root / "models"
    if first:
        shutil.rmtree(models / "wine")
    else:
        release(project)
    trained = elsewhere(project, 1)
    was = {p.relative_to(models): p.read_bytes() for p in models.rglob("*") if p.is_file()}

    def down(*_):
        raise StoreError("the store does not answer")

    with monkeypatch.context() as patch, pytest.raises(StoreError, match="does not answer"):
        patch.setattr(module, "check_objects", down)
        release(project, trained)
    assert {p.relative_to(models): p.read_bytes() for p in models.rglob("*") if p.is_file()} == was
    whole(project, release(project, trained, notes={"Round": "7.0"}).version)
    assert list(released(read_events(project.root, "wine")).values())[-1].notes["Round"] == "7.0"


@pytest.mark.slow
@pytest.mark.parametrize("later", [0, 0.02, 0.1])
@pytest.mark.parametrize("step", ["note", "number", "add", "push", "list", "commit", "tag"])
def test_a_process_killed_within_any_step(project, step, later):
    command = {"cwd": project.root, "env": environment(), "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen([MLSERVE, "release"], text=True, **command) as process:
        assert any(line.startswith(f"{step} ") for line in process.stderr)
        time.sleep(later)
        process.kill()
    noted, tagged = (project.root / ".git" / "mlserve-release.json").exists(), git(project.root, "tag")
    again = release(project)
    assert ("was cut off" in again.recovered) == noted
    assert (again.done == "released") == ("now complete" not in again.recovered and not tagged)
    whole(project, "1.0.0")


def test_a_model_is_judged_by_what_serves_it(trained):
    settings, bundle = load_settings(trained, environ={}), read_bundle(trained / "models" / "wine")
    recipe = find_recipe(settings.model.recipe, trained)
    by_plan, by_pipeline = (
        face(settings, recipe, None, replace(bundle, manifest=replace(bundle.manifest, engine=engine))).challenger
        for engine in ("plan", "sklearn")
    )
    assert bundle.manifest.engine == "plan" and len(by_plan) == bundle.manifest.lineage.held_out
    assert np.array(by_plan) == pytest.approx(np.array(by_pipeline), abs=1e-12)


@pytest.mark.parametrize(
    ("old", "new", "metric", "decision"),
    [
        ({"roc_auc": 0.9, "f1": 0.8}, {"roc_auc": 0.8}, "roc_auc", "hold"),
        ({"roc_auc": 0.8, "f1": 0.8}, {"f1": 0.7}, "f1", "hold"),
        ({"f1": 0.7}, {"roc_auc": 0.8, "f1": 0.8}, "f1", "promote"),
        ({"roc_auc": 0.8}, {"f1": 0.7}, "binary", "promote"),
    ],
)
def test_models_that_share_no_rows_are_held_to_a_metric_both_have(trained, old, new, metric, decision):
    bundle = read_bundle(trained / "models" / "wine")
    output = replace(bundle.contract.output, task="binary")

    def measured(metrics):
        spread = {
            f"{name}_{end}": value + by
            for name, value in metrics.items()
            for end, by in (("low", -0.01), ("high", 0.01))
        }
        manifest = replace(bundle.manifest, metrics=metrics | spread)
        return replace(bundle, contract=replace(bundle.contract, output=output), manifest=manifest)

    verdict = module._unfaced(measured(old), measured(new))
    assert (verdict.decision, verdict.reasons[0].subject) == (decision, metric)


def test_what_waits_to_be_put_into_service_is_not_released_again(project):
    release(project)
    promote(project, open_store(find_remote(project)), "wine", "1.0.0", "prod")
    retrained(project, 5)
    waiting = release(project)
    assert waiting.done == "released"
    train(project)
    again = release(project)
    assert (again.done, again.version) == ("nothing to release", waiting.version)
    assert again.why.endswith("it was released before, and `mlserve promote` puts it into service")
    assert read_bundle(project.root / "models/wine").manifest.version == waiting.version
    assert list(released(read_events(project.root, "wine"))) == ["1.0.0", waiting.version]


def test_a_clone_that_does_not_know_every_version_releases_none(project, tmp_path):
    release(project)
    promote(project, open_store(find_remote(project)), "wine", "1.0.0", "prod")
    git(project.root, "commit", "-q", "--allow-empty", "-m", "Later")
    for options, said in (
        (["--depth=1"], "this clone is shallow"),
        (["--no-tags"], "1.0.0 is in prod; run `git fetch --tags`"),
    ):
        clone = tmp_path / options[0]
        git(tmp_path, "clone", "-q", *options, f"file://{project.root}", str(clone))
        git(clone, "config", "user.name", "Ada")
        git(clone, "config", "user.email", "ada@example.org")
        shutil.copytree(project.root / "models/wine", clone / "models/wine")
        url = find_remote(project).url
        (clone / ".dvc/config.local").write_text(f"['remote \"r\"']\n    url = {url}\n")
        with pytest.raises(NoRepository, match=said):
            release(replace(load_settings(clone, environ={}), gate=LENIENT))
        assert git(clone, "tag").split() == []


def test_a_release_of_no_branch_says_how_its_tag_is_shared(project, monkeypatch):
    git(project.root, "checkout", "-q", "--detach")
    monkeypatch.chdir(project.root)
    done = CliRunner().invoke(app, ["release"])
    assert done.exit_code == 0 and "`git push origin wine@v1.0.0` shares it" in done.stdout
    done = CliRunner().invoke(app, ["release", "--why", "because"])
    assert done.exit_code == 2 and "name the" in done.output


def test_a_release_commits_only_its_own_files(project):
    (project.root / "params.yaml").write_text("wine:\n  pipeline:\n    C: 2.0\n")
    (project.root / "staged.txt").write_text("mine")
    git(project.root, "add", "staged.txt")
    release(project)
    assert git(project.root, "show", "--name-only", "--format=").split() == ["dvc.yaml", "models/wine.dvc"]
    assert git(project.root, "status", "--porcelain") == " M params.yaml\nA  staged.txt\n"
    assert released(read_events(project.root))["1.0.0"].notes["Uncommitted"] == "params.yaml, staged.txt"


def test_the_real_dvc_and_gto_know_the_release(project, tmp_path):
    release(project)
    binaries = Path(sys.executable).parent

    def run(*command):
        done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    promoted = mlserve(project.root, "promote", "wine@v1.0.0", "--stage", "prod")
    assert promoted.returncode == 0, promoted.stderr
    shutil.rmtree(project.root / ".dvc" / "cache")
    out = tmp_path / "got"
    run(binaries / "dvc", "artifacts", "get", "-q", ".", "wine", "--stage", "prod", "-o", str(out))
    assert read_bundle(out).manifest.version == "1.0.0"
    assert run(binaries / "gto", "show", "wine#prod", "--version").split() == ["v1.0.0"]


def test_a_running_service_follows_what_is_promoted_and_taken_back(project):
    def told(*command):
        done = mlserve(project.root, *command)
        assert done.returncode == 0, done.stderr

    def answers_as(version):
        "The running service answers as this version before a minute is over"
        last, answer = time.monotonic() + 60, {}
        while answer.get("version") != version:
            assert time.monotonic() < last, f"{answer} is not of {version}"
            answer = httpx.post(f"{service.url}/predict", json=row).raise_for_status().json()
        return answer["probabilities"]

    release(project)
    told("promote", "wine@v1.0.0")
    service = Service(project.root, MLSERVE_FOLLOW_EVERY=0.1, MLSERVE_SERVE_DRAIN=0.1)
    row = httpx.get(f"{service.url}/model").json()["example"]
    first = answers_as("1.0.0")
    retrained(project, 9)
    second = release(project).version
    told("promote", f"wine@v{second}")
    assert answers_as(second) != first
    told("rollback", "wine", "--why", "its answers surprised")
    assert answers_as("1.0.0") == first
    service.stop()


@pytest.mark.slow
def test_ten_releases_and_three_rollbacks_tell_their_story_in_one_screen(project):
    first = release(project)
    versions = [first.version]
    for number in range(1, 10):
        retrained(project, number)
        versions.append(release(project).version)
    assert len(set(versions)) == 10
    store = open_store(find_remote(project))
    for version in versions[:5]:
        promote(project, store, "wine", version, "prod")
    for _ in range(3):
        rollback(project, store, "wine", "prod", "it was slow")
    clone = project.root.parent / "clone"
    git(project.root.parent, "clone", "-q", "--bare", str(project.root), str(clone))
    told = mlserve(clone, "history")
    lines = told.stdout.splitlines()
    assert told.returncode == 0 and len(lines) == 18 and max(map(len, lines)) < 130
    assert sum("it was slow" in line for line in lines) == 3
    assert lines[-1].split()[3:6] == ["prod", "<-", versions[1]]
    checked = mlserve(project.root, "store", "check")
    assert checked.returncode == 0 and checked.stdout.count("verified") == 10
    tracked = tracked_at(project, released(read_events(project.root))[versions[3]])
    (project.root / "store" / object_path(tracked.md5)).unlink()
    checked = mlserve(project.root, "store", "check")
    assert checked.returncode == 8 and "(list of files) missing" in checked.stdout and "dvc push" in checked.stdout


def test_where_there_is_nothing_to_release_to(project):
    config = project.root / ".dvc" / "config"
    stated = config.read_text()
    config.write_text("[core]\n    analytics = false\n")
    with pytest.raises(StoreError, match="no store is set"):
        release(project)
    config.write_text(stated)
    git(project.root, "config", "--unset", "user.name")
    git(project.root, "config", "--unset", "user.email")
    git(project.root, "config", "user.useConfigOnly", "true")
    with pytest.raises(NoRepository, match=r"git config user\.name"):
        release(project)
    shutil.rmtree(project.root / ".git")
    said = mlserve(project.root, "release")
    assert said.returncode == 13 and "run `git init`" in said.stderr


def test_an_artifact_that_stands_elsewhere_is_not_moved(project):
    (project.root / "dvc.yaml").write_text("artifacts:\n  wine:\n    path: other\n    type: model\n")
    git(project.root, "add", ".")
    git(project.root, "commit", "-qm", "elsewhere")
    before = state(project)
    with pytest.raises(ReleaseError, match=r"dvc\.yaml says that the artifact wine is other"):
        release(project)
    assert state(project) == before


@pytest.mark.slow
def test_what_doctor_says_of_collecting_garbage_is_so(project):
    release(project)
    assert "no earlier release" in mlserve(project.root, "doctor").stdout
    retrained(project, 1)
    release(project)
    told = next(line for line in mlserve(project.root, "doctor").stdout.splitlines() if "releases" in line)
    assert "1 earlier release is in the store alone" in told

    def collect(*which):
        command = [Path(sys.executable).with_name("dvc"), "gc", "-w", *which, "-c", "-f", "-q"]
        subprocess.run(command, cwd=project.root, check=True, timeout=120)
        return mlserve(project.root, "store", "check")

    assert "-w -T -c" in told and collect("-T").returncode == 0
    lost = collect()
    assert lost.returncode == 8 and "wine@v1.0.0" in lost.stdout and "missing" in lost.stdout


SLIDING = """
import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from mlserve.recipe import Recipe


def load(folder):
    rng = np.random.default_rng(0)
    x = rng.normal(size=10_000)
    return pd.DataFrame({"x": x, "y": x + rng.normal(0, 0.3, 10_000)})


def build(alpha=0.0):
    return make_pipeline(StandardScaler(), Ridge(alpha=alpha))


recipe = Recipe(name="sliding", task="regression", target="y", load=load, build=build)
"""


@pytest.fixture
def sliding(tmp_path, monkeypatch):
    "What trains, releases and promotes a model whose coefficient is too small by a share"
    (tmp_path / "sliding.py").write_text(SLIDING)
    (tmp_path / "settings.ini").write_text("[model]\nrecipe = sliding:recipe\n")
    begin(tmp_path, monkeypatch)
    settings = load_settings(tmp_path, environ={})

    recipe = find_recipe(settings.model.recipe, tmp_path)
    table = make_table(recipe, recipe.load(tmp_path), 0.2)

    def step(short):  # a bundle without what no release reads: plots, plan, probe
        params = Params(pipeline={"alpha": 8000 * short / (1 - short)})
        fitted = fit(recipe, table, params, settings.model.recipe)
        files = {"contract.json": dump(to_json(table.contract)), "pipeline.skops": dump_pipeline(fitted.pipeline)}
        files |= lineage_files(recipe, table, params, fitted.pipeline, 0)
        manifest = Manifest("sliding", unreleased(files), "sklearn", fitted.lineage, {})
        write_bundle(tmp_path / "models" / "sliding", manifest, {**files, "model_card.md": b"# A slide"})
        done = release(settings)
        if done.done == "released":
            promote(settings, None, "sliding", done.version, "prod")
        return done

    return settings, step


def best(settings):
    return [e.notes.get("Best") for e in released(read_events(settings.root, "sliding")).values()]


def test_a_slide_of_small_losses_is_stopped_by_the_best_model_before(sliding):
    settings, step = sliding
    # each is 1.5 percent worse than the one before, and 3 are allowed
    *slid, stopped = [step(short) for short in (0.0, 0.052, 0.074, 0.091)]
    assert [s.done for s in slid] == ["released"] * 3 and stopped.done == "hold"
    assert {r.rule for r in stopped.verdict.reasons if r.decision == "hold"} == {"best"}
    assert "against the best model so far" in stopped.why
    assert set(best(settings)[1:]) == {"1.0.0"}  # it is not forgotten
    again = step(0.0)
    assert again.done == step(0.03).done == "released"
    assert best(settings)[-2:] == ["1.0.0", again.version]  # as good as the first on these rows, and newer


def test_a_best_model_that_was_rolled_back_or_is_gone_holds_nobody_up(sliding):
    settings, step = sliding
    for short in (0.06, 0.0, 0.05):  # the second is the best
        last = step(short)
    assert best_before(settings, "sliding").version == last.verdict.best == "1.0.1"
    for _ in range(2):
        rollback(settings, None, "sliding", "prod", "its answers surprised")
    assert best_before(settings, "sliding") is None
    promote(settings, None, "sliding", "1.0.1", "prod")
    promote(settings, None, "sliding", "1.0.2", "prod")
    tracked = tracked_at(settings, best_before(settings, "sliding"))
    for cache in (settings.root / ".dvc" / "cache", settings.root / "store"):
        (cache / object_path(tracked.md5)).unlink()
    shutil.rmtree(settings.path(settings.store.cache))
    again = step(0.055)
    (reason,) = (r for r in again.verdict.reasons if r.rule == "best")
    assert again.done == "released" and again.verdict.best == "1.0.2"
    assert (reason.decision, "is not in the store" in reason.text) == ("not judged", True)
