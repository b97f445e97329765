"""A model serves, the world moves, a new model goes live

Weeks of census data are sent to a real service, which follows what is promoted. A year takes minutes, so after each week its
answers are dated in the journal, seven days for each week."""

import json
import sqlite3
import time
from itertools import count
from urllib.request import Request, urlopen

import pytest

from mlserve.bundle import read_bundle
from mlserve.data import plain
from mlserve.examples import census, weeks
from mlserve.loop import retrain
from mlserve.registry import git, in_service, read_events, released
from mlserve.settings import load_settings

from .conftest import Service

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of a library that DVC uses
WEEK = 7 * 86_400
TINY = """
from dataclasses import replace
from mlserve.examples import census
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS, WORDS = ["age", "education-num", "hours-per-week"], ["sex", "marital-status"]

def build(C: float = 1.0):
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), WORDS), (StandardScaler(), NUMBERS))
    return make_pipeline(columns, LogisticRegression(C=C, max_iter=500))

recipe = replace(census.recipe, name="tiny", features=(*NUMBERS, *WORDS), build=build, slices=census.recipe.slices[:1],
                 amend={name: census.recipe.amend[name] for name in (*NUMBERS, *WORDS)})
"""
WORSE = {"tiny": "tiny:\n  pipeline:\n    C: 0.00001\n", "census": "census:\n  pipeline:\n    max_iter: 3\n"}


def begin(folder, name, monkeypatch, rows=None):
    "A repository whose data ends with week 12"
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
    where = "tiny" if name == "tiny" else "mlserve.examples.census"
    files = {
        "settings.ini": f"[model]\nrecipe = {where}:recipe\nname = {name}\n[retrain]\nrows = 0\nage_days = 0\n",
        ".gitignore": "/models/*\n!/models/*.dvc\n/data/*\n!/data/*.dvc\n/store/\n/cache/\n/reports/\n/journal/\n",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".dvc/config": "[core]\n    remote = team\n['remote \"team\"']\n    url = ../store\n    verify = true\n",
        "tiny.py": TINY,
    }
    for file, text in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "Begin")
    (folder / "data").mkdir()
    learnt = weeks.until(census.load(folder / "data"))
    learnt.head(rows or len(learnt)).to_parquet(folder / "data" / census.FILE)
    return load_settings(folder, environ={})


def ask(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "accept": "application/json"}
    with urlopen(Request(url + path, data, headers), timeout=30) as answer:
        return json.load(answer)


def send(service, settings, rows, monday):
    "A week over HTTP: rows are answered, what is true is told, and the journal dates both"
    fields = read_bundle(settings.root / "models" / settings.model.name).contract.names
    columns = [plain(rows[name]) for name in fields]
    asked = [dict(zip(fields, values, strict=True)) for values in zip(*columns, strict=True)]
    answers = ask(service.url, "/predict", asked)
    told = [{"id": a["id"], "label": t} for a, t in zip(answers, plain(rows["income"]), strict=True)]
    assert {one["state"] for one in ask(service.url, "/feedback", told)} == {"stored"}
    journal = sqlite3.connect(settings.root / "journal" / "journal.db", timeout=30, isolation_level=None)
    for _ in range(100):
        [(there,)] = journal.execute(
            "select count(*) from predictions where id in (select value from json_each(?))",
            [json.dumps([a["id"] for a in answers])],
        )
        if there == len(answers):
            break
        time.sleep(0.1)
    assert there == len(answers)
    dated = []
    for number, answer in enumerate(answers):
        moment = int(1000 * (monday + WEEK * (number + 0.5) / len(answers)))
        dated.append((f"{moment:012x}{answer['id'][12:]}", answer["id"]))
    journal.execute("begin immediate")
    for table in ("predictions", "feedback"):
        journal.executemany(f"update {table} set id = ? where id = ?", dated)
    journal.execute("commit")
    journal.close()
    return {a["model_version"] if "model_version" in a else a["version"] for a in answers}


def wait_for(service, version):
    "The service follows what was promoted"
    for _ in range(100):
        if ask(service.url, "/model")["version"] == version:
            return
        time.sleep(0.1)
    raise AssertionError(f"{version} did not go live")


def story(settings, name, share):
    "A year: quiet, then older people come, then degrees are worth less"
    nights = count(1)
    monday = time.time() // WEEK * WEEK + WEEK
    first = retrain(settings, now=time.time())
    assert (first.result, first.version, first.promoted) == ("released", "1.0.0", "prod")
    service = Service(settings.root, MLSERVE_FOLLOW_EVERY=0.3, MLSERVE_JOURNAL_KEEP_DAYS=4000)
    try:

        def live(drift=None, seed=0):
            "A week, and the round in the night after it"
            number = next(nights)
            rows = weeks.stream(13 + number % 12, drift, seed)[number // 12 % 4 :: share]
            served = send(service, settings, rows, monday + WEEK * number)
            done = retrain(settings, now=monday + WEEK * (number + 1))
            if done.promoted:
                wait_for(service, done.version)
            return served, done

        def until_found(drift, kinds, most):
            "Weeks with drift, until a round has a reason"
            for week in range(1, most + 1):
                _, done = live(drift, seed=week)
                if done.triggers:
                    assert {t.kind for t in done.triggers} <= kinds, done.triggers
                    return week, done
            raise AssertionError(f"{drift} was not found in {most} weeks")

        for _ in range(4):  # quiet weeks raise no alarm
            served, done = live()
            assert (served, done.result, done.triggers) == ({"1.0.0"}, "nothing to do", ())

        (settings.root / "params.yaml").write_text(WORSE[name])  # a worse model is held
        held = retrain(settings, asked="a simpler model", now=monday + WEEK * 5.2)
        assert (held.result, held.exit_code) == ("hold", 10)
        (settings.root / "params.yaml").unlink()
        assert ask(service.url, "/model")["version"] == "1.0.0"

        older = until_found("covariate:0.08", {"drift"}, 8)
        flipped = until_found("concept:1", {"drift", "live"}, 12)
        while flipped[1].result != "released":  # until there are rows enough to learn it from
            flipped = until_found("concept:1", {"drift", "live"}, 12)
        wait_for(service, flipped[1].version)
        served, _ = live("concept:1")
        assert served == {flipped[1].version}
        return older, flipped
    finally:
        service.stop()


@pytest.mark.slow
def test_a_model_follows_the_world(tmp_path, monkeypatch):
    settings = begin(tmp_path, "tiny", monkeypatch, rows=6_000)
    (_, older), (_, flipped) = story(settings, "tiny", share=2)
    assert any("covariate" in t.says for t in older.triggers)
    events = read_events(tmp_path, "tiny")
    versions = list(released(events))  # in the last week there may have been one more
    assert in_service(events, "prod").version == versions[-1] and flipped.version in versions[-2:]
    page = (tmp_path / "reports/tiny-retrain/report.html").read_text()
    assert page.count("data:image/png;base64,") > 3 and "<script" not in page
