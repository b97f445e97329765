"The workflows: what no linter knows of them"

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
WORKFLOWS = {p.stem: yaml.safe_load(p.read_text()) for p in sorted((ROOT / ".github/workflows").glob("*.yml"))}
JOBS = [pytest.param(job, id=f"{w}-{n}") for w, flow in WORKFLOWS.items() for n, job in flow["jobs"].items()]
OURS = re.compile(r"make [a-z-]+|\.venv/bin/mlserve [^;|&]+|\.ci/retrain( --dry-run)?")


def triggers(flow):
    return flow[True]  # what YAML 1.1 makes of `on`


@pytest.mark.parametrize("job", JOBS)
def test_a_job_calls_the_makefile_or_the_command_line_only(job):
    for step in job["steps"]:
        if "run" in step:
            assert OURS.fullmatch(step["run"].strip()), step["run"]
            assert "${{" not in step["run"]  # values enter a shell through the environment


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_bounded_and_has_its_rights_stated(job):
    assert job["timeout-minutes"] <= 120 and "permissions" in job
    for step in job["steps"]:
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
        if step.get("uses", "").startswith("actions/checkout"):
            assert step["with"]["persist-credentials"] is False


def test_each_target_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    called = [
        s["run"].split()[1]
        for w in WORKFLOWS.values()
        for j in w["jobs"].values()
        for s in j["steps"]
        if "run" in s and s["run"].startswith("make ")
    ]
    assert set(called) <= set(targets) and len(called) > 10


def test_nothing_is_deployed_before_everything_is_through():
    jobs = WORKFLOWS["ci"]["jobs"]
    before = set(jobs) - {"deploy", "smoke", "rollback"}
    assert set(jobs["deploy"]["needs"]) == before == {"lint", "test", "notebooks", "docs", "slug", "wheel"}
    assert "github.event_name == 'push'" in jobs["deploy"]["if"] and "refs/heads/main" in jobs["deploy"]["if"]
    assert jobs["smoke"]["needs"] == "deploy" and set(jobs["rollback"]["needs"]) == {"deploy", "smoke"}
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_what_a_fork_can_start_is_given_no_secret():
    for flow in WORKFLOWS.values():
        assert flow["permissions"] == {} and "pull_request_target" not in triggers(flow)
        for job in flow["jobs"].values():
            if "pull_request" in triggers(flow) and "secrets." in str(job):
                guards = "github.event_name == 'push'", "!= 'pull_request'", "needs.deploy.result == 'success'"
                if any(guard in job["if"] for guard in guards):
                    assert job["environment"] == "production"
                else:  # a pull request of this repository's own: only what may read
                    assert "head.repo.full_name == github.repository" in job["if"]
                    assert set(re.findall(r"secrets\.(\w+?)_", str(job))) == {"STORE"}


def test_the_timers():
    assert triggers(WORKFLOWS["stale"])["schedule"] == [{"cron": "30 1 * * *"}]
    (step,) = WORKFLOWS["stale"]["jobs"]["stale"]["steps"]
    assert step["with"]["stale-issue-label"] == "no-issue-activity"
    assert step["with"]["stale-pr-label"] == "no-pr-activity"
    assert {"schedule", "workflow_dispatch"} <= set(triggers(WORKFLOWS["weekly"]))
    assert {"schedule", "repository_dispatch", "workflow_dispatch"} <= set(triggers(WORKFLOWS["train"]))


@pytest.mark.parametrize("command", [["jactionlint", "--shellcheck="], ["zizmor", "--offline", "--quiet", ".github"]])
def test_the_linters_are_content(command):
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


MLSERVE = """#!/bin/sh
echo "$@" >> calls
case $1 in
  drift) exit ${DRIFT:-0} ;;
  retrain) echo "accuracy rose" > "$3"; echo "${ANSWER:-}"; exit ${RETRAIN:-0} ;;
esac
"""


@pytest.mark.parametrize(
    ("drift", "code", "rc", "said"),
    [
        (0, 0, 0, "A new model was made."),
        (10, 10, 0, "held back"),
        (12, 12, 0, "nothing to do"),
        (0, 11, 0, "not enough data"),
        (0, 12, 0, "nothing to do"),
        (0, 6, 6, None),
        (6, 0, 0, "A new model was made."),  # a model that is too old to say: retraining mends it
    ],
)
def test_the_nightly_round_says_what_came_of_it(tmp_path, drift, code, rc, said):
    done = night(tmp_path, DRIFT=drift, RETRAIN=code)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert done.returncode == rc and calls[:3] == ["slug bake", "collect", "drift"]
    if said:
        assert calls[3].startswith("retrain --report ") and calls[4].startswith(
            "gh pr comment 7 --edit-last --create-if-none"
        )
        assert said in (tmp_path / "summary").read_text() == (tmp_path / "comment").read_text()
        assert "accuracy rose" in (tmp_path / "comment").read_text()
    else:
        assert not (tmp_path / "summary").exists()


def night(tmp_path, *arguments, **environ):
    "The nightly script, with stand-ins for mlserve and gh"
    (tmp_path / "bin").mkdir()
    for name, text in {"mlserve": MLSERVE, "gh": '#!/bin/sh\necho "gh $@" >> calls\ncat >> comment\n'}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environ = {
        "PATH": f"{tmp_path}/bin:/usr/bin:/bin",
        "PULL_REQUEST": "7",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        **{name: str(value) for name, value in environ.items()},
    }
    command = [ROOT / ".ci/retrain", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)


REFUSED = '{"error": "%s", "message": "the store wants a key", "fields": []}'


@pytest.mark.parametrize(
    ("arguments", "kind", "rc", "said"),
    [
        ([], "no_store", 0, "There is nothing to do, since no store is set."),
        ([], "store_refused", 8, None),
        (["--dry-run"], "store_refused", 0, "could not be read, so nothing was compared: the store wants a key"),
        (["--dry-run"], "object_missing", 0, "could not be read, so nothing was compared: the store wants a key"),
        (["--dry-run"], "bad_recipe", 8, None),
    ],
)
def test_a_store_that_is_not_there_is_no_failure_where_nothing_depends_on_it(tmp_path, arguments, kind, rc, said):
    done = night(tmp_path, *arguments, RETRAIN=8, ANSWER=REFUSED % kind)
    assert done.returncode == rc and "the store wants a key" in done.stdout
    if said:
        assert said in (tmp_path / "comment").read_text()
    else:
        assert not (tmp_path / "comment").exists()
