"Deployments against a stand-in for Heroku that builds and runs what it is given"

import json
import shutil
import subprocess
from pathlib import Path
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner

from mlserve.cli import app
from mlserve.heroku import (
    NetworkLost,
    NotDeployed,
    Platform,
    SmokeFailed,
    check_app,
    deploy,
    deploy_and_try,
    find_app,
    outputs,
    pack,
    probe_of,
    release_before,
    rollback,
    smoke,
)
from mlserve.settings import load_settings
from tests.conftest import mlserve
from tests.platform_api import stand_in

ROOT = Path(__file__).resolve().parent.parent


def git(folder, *arguments):
    names = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    return subprocess.run(
        ["git", *names, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def project(census):
    "A repository with what is deployed, and a model beside it"
    for name in ("Procfile", "requirements.txt", ".python-version", "main.py", "README.md", ".slugignore"):
        shutil.copy(ROOT / name, census)
    for name in ("bin", "mlserve"):
        shutil.copytree(ROOT / name, census / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (census / ".gitignore").write_text("models/\ndata/\nreports/\n")
    git(census, "init", "-q")
    git(census, "add", ".")
    git(census, "commit", "-qm", "one")
    return census


def again(project, name="note"):
    (project / name).write_text(name)
    git(project, "add", ".")
    git(project, "commit", "-qm", name)


def try_it(heroku, project, key=""):
    settings = load_settings(project, environ={})
    lines = []
    made = pack(settings, "demo")
    done = deploy_and_try(Platform("key", heroku.url, pause=0.05), made, probe_of(settings), lines.append, 0.5, key)
    return done, lines


def served(heroku):
    with urlopen(f"http://127.0.0.1:{heroku.port}/model", timeout=60) as answer:
        return json.load(answer)["code_commit"]


def test_a_commit_is_built_released_tried_out_and_taken_back(project, tmp_path):
    key, env = "a-key-of-the-smoke-test", {"HEROKU_API_KEY": "key"}
    with stand_in(tmp_path) as heroku:
        heroku.config, env["HEROKU_HOST"] = {"MLSERVE_ACCESS_PREDICT_KEYS": key}, heroku.url
        first, lines = try_it(heroku, project, key)
        assert first.previous == "" and first.commit == served(heroku) == git(project, "rev-parse", "HEAD")
        assert any("is in the slug, verified" in line for line in lines) and "8 rows of its probe right" in lines[-1]
        with pytest.raises(SmokeFailed, match=r"^/predict answers 401; set PREDICT_KEY to a key for predictions$"):
            smoke(first.url, first.commit, probe_of(load_settings(project, environ={})), 1)
        told = mlserve(project, "deploy", "smoke", first.url, "--commit", first.commit, PREDICT_KEY=key)
        assert told.returncode == 0 and "8 rows of its probe right" in told.stdout
        said = outputs(first)  # which a workflow's log shows
        assert said == f"url={first.url}\nprevious=\n"
        again(project)
        heroku.faults |= {"wrong"}  # the second release does not say what it is
        with pytest.raises(
            SmokeFailed, match=r"reports the commit another.* demo is back at the release of before, as v3"
        ):
            try_it(heroku, project, key)
        assert [r["slug"]["id"][-1] for r in heroku.releases] == ["1", "2", "1"]
        assert served(heroku) == first.commit
        heroku.run = lambda slug: None
        told = mlserve(project, "deploy", "rollback", "--app", "demo", "--release", "release-1", **env)
        assert told.returncode == 0 and "as v4" in told.stdout
        told = mlserve(project, "deploy", "rollback", "--app", "demo", **env)  # to what was served before this slug
        assert told.returncode == 0 and heroku.releases[-1]["slug"]["id"].endswith("slug-2")


def test_the_first_release_that_fails_has_none_to_go_back_to(project, tmp_path):
    with stand_in(tmp_path) as heroku:
        heroku.run = lambda slug: None
        with pytest.raises(SmokeFailed, match=r"^/model gives no answer .* demo has no release to go back to"):
            try_it(heroku, project)


def test_a_rollback_of_which_nobody_hears_is_asked_for_again(tmp_path):
    with stand_in(tmp_path, "POST releases") as heroku:
        heroku.run = lambda slug: None
        heroku.apps["demo"] = heroku.app("demo")
        heroku.release(tmp_path / "slug-1")
        heroku.release(tmp_path / "slug-2")
        there = Platform("key", heroku.url, pause=0.02)
        assert "back at the release of before" in rollback(there, "demo", release_before(there, "demo"))
        assert [Path(r["slug"]["id"]).name for r in heroku.releases] == ["slug-1", "slug-2", "slug-1", "slug-1"]
    with pytest.raises(NetworkLost, match="cannot be reached"):
        rollback(Platform("key", heroku.url, tries=2, pause=0.01), "demo", "release-1")


def test_an_app_that_was_made_though_nobody_heard_is_found(tmp_path):
    with stand_in(tmp_path, "POST apps") as heroku:
        assert find_app(Platform("key", heroku.url, pause=0.02), "demo", print).startswith("http://127.0.0.1")
        assert heroku.calls.count(("POST", "/apps")) == 1


@pytest.mark.parametrize("fault", ["log", "busy", "GET releases", "POST builds"])
def test_what_the_network_loses_is_asked_for_again(project, tmp_path, fault):
    with stand_in(tmp_path, fault) as heroku:
        heroku.run = lambda slug: None
        if fault == "POST builds":  # the build began; the newest build tells
            heroku.build = pending_first(heroku)
        settings = load_settings(project, environ={})
        done = deploy(Platform("key", heroku.url, pause=0.02), pack(settings, "demo"))
        assert done.release == "release-1" and len(heroku.builds) == len(heroku.releases) == 1


def pending_first(heroku):
    build, asked = heroku.build, heroku.answer

    def slow(app, blob):
        made = build(app, blob)
        made["status"] = "pending"

        def answer(method, path, body, wanted=""):
            said = asked(method, path, body, wanted)
            if path.endswith("/builds/1"):
                made["status"] = "succeeded"
            return said

        heroku.answer = answer
        return made

    return slow


def test_an_upload_that_breaks_changes_nothing(project, tmp_path):
    with stand_in(tmp_path, "upload") as heroku:
        with pytest.raises(NetworkLost, match="nothing has changed"):
            deploy(Platform("key", heroku.url, pause=0.02), pack(load_settings(project, environ={}), "demo"))
        assert not heroku.builds and not heroku.releases


def test_a_failed_build_is_told_and_releases_nothing(project, tmp_path):
    plan_file = next(project.glob("models/*/plan.bin"))
    settings = load_settings(project, environ={})
    made = pack(settings, "demo")
    assert plan_file.is_file()
    with stand_in(tmp_path, "build") as heroku:
        with pytest.raises(NotDeployed, match="the build failed"):
            deploy(Platform("key", heroku.url, pause=0.02), made)
        assert heroku.builds[0]["status"] == "failed" and not heroku.releases


def test_the_network_away_and_a_wrong_key_are_sentences(project, tmp_path):
    with stand_in(tmp_path) as heroku:
        env = {"HEROKU_API_KEY": "wrong", "HEROKU_HOST": heroku.url}
        told = mlserve(project, "deploy", "heroku", "--app", "demo", **env)
        assert told.returncode == 17 and "Invalid credentials" in told.stderr and "Traceback" not in told.stderr
        assert "wrong" not in told.stderr + told.stdout
        url = heroku.url
    made = pack(load_settings(project, environ={}), "demo")
    with pytest.raises(NetworkLost, match="cannot be reached"):
        deploy(Platform("key", url, tries=2, pause=0.01), made)


def test_a_dry_run_says_what_would_be_done(project):
    (project / "settings.ini").write_text((project / "settings.ini").read_text() + "\n")
    told = mlserve(project, "deploy", "heroku", "--app", "demo", "--dry-run")
    assert told.returncode == 0 and "with census" in told.stdout and "not committed" in told.stdout
    wrong = mlserve(project, "deploy", "heroku", "--app", "Demo!", "--dry-run")
    assert wrong.returncode == 17 and "cannot name an app" in wrong.stderr
    wrong = CliRunner().invoke(app, ["deploy", "rollback", "--app", "äpfel"])
    assert wrong.exit_code == 17 and "cannot name an app" in wrong.stderr
    for name in ("1st", "äpfel", "no", "last-", "demo\n", "a" * 31, "two words"):
        with pytest.raises(NotDeployed, match="cannot name an app"):
            check_app(name)
    check_app("a-1")
    git(project, "rm", "-q", "requirements.txt")
    git(project, "commit", "-qm", "no requirements")
    wrong = mlserve(project, "deploy", "heroku", "--app", "demo", "--dry-run")
    assert wrong.returncode == 17 and "no requirements.txt" in wrong.stderr
