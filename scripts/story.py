"""A year of a model: it serves, the world moves, worse models are held, better ones go live. Writes tests/story.json.

Rows of the census weeks are sent to a real service over HTTP, which follows what is promoted; feedback says what was true.
After each week comes a round of retraining, as every night in CI. The year takes minutes, so after each week its answers are
dated in the journal, seven days for each week. `make story` runs it with the default model and with a small one.
"""

import argparse
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from mlserve.bundle import read_bundle
from mlserve.data import plain
from mlserve.database import open_journal
from mlserve.examples import census, weeks
from mlserve.loop import retrain
from mlserve.registry import git
from mlserve.release import champion_of
from mlserve.settings import load_settings
from mlserve.vigil import look_back

RECORD = Path(__file__).resolve().parent.parent / "tests" / "story.json"
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


@dataclass(frozen=True)
class Year:
    "What happens when"

    model: str
    quiet: int = 16  # Weeks; after them somebody tries a worse model
    older: int = 12  # Weeks in which older people come
    turned: int = 24  # Weeks in which a degree says the contrary
    rows: int | None = None  # Of the first training; all if not given

    def drift(self, week):
        "What has moved in a week"
        if week <= self.quiet:
            return None
        return "covariate:0.03" if week <= self.quiet + self.older else "concept:1"

    @property
    def weeks(self):
        return range(1, self.quiet + self.older + self.turned + 1)


YEARS = {"census": Year("census"), "tiny": Year("tiny", 6, 4, 12, rows=6_000)}


def begin(folder, year):
    "A repository whose data ends with the week before the first"
    where = "tiny" if year.model == "tiny" else "mlserve.examples.census"
    files = {
        "settings.ini": f"[model]\nrecipe = {where}:recipe\nname = {year.model}\n[retrain]\nrows = 0\nage_days = 0\n",
        ".gitignore": "/models/?*\n!/models/*.dvc\n/data/?*\n!/data/*.dvc\n/store/\n/cache/\n/reports/\n/journal/\n",
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
    learnt.head(year.rows or len(learnt)).to_parquet(folder / "data" / census.FILE)
    return load_settings(folder, environ={})


def ask(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"content-type": "application/json", "accept": "application/json"}
    with urlopen(Request(url + path, data, headers), timeout=30) as answer:
        return json.load(answer)


@contextmanager
def service(settings):
    "A running service; its address"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLSERVE_") and k != "DATABASE_URL"}
    given = {"PORT": str(port), "MLSERVE_FOLLOW_EVERY": "0.3", "MLSERVE_JOURNAL_KEEP_DAYS": "4000"}
    command = [sys.executable, "-m", "mlserve", "serve"]
    running = subprocess.Popen(command, cwd=settings.root, env=kept | given, stderr=subprocess.DEVNULL)
    try:
        until(lambda: ask(f"http://127.0.0.1:{port}", "/health/ready"), "the service did not become ready")
        yield f"http://127.0.0.1:{port}"
    finally:
        running.terminate()
        running.wait(30)


def until(true, otherwise):
    "Wait for something"
    for _ in range(300):
        try:
            if true():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError(otherwise)


def send(url, settings, rows, monday):
    "A week over HTTP: rows are answered, what is true is told, and the journal dates both"
    fields = read_bundle(settings.root / "models" / settings.model.name).contract.names
    columns = [plain(rows[name]) for name in fields]
    asked = [dict(zip(fields, values, strict=True)) for values in zip(*columns, strict=True)]
    truth = plain(rows["income"])
    answers = ask(url, "/predict", asked)
    told = [{"id": a["id"], "label": t} for a, t in zip(answers, truth, strict=True)]
    if {one["state"] for one in ask(url, "/feedback", told)} != {"stored"}:
        raise RuntimeError("feedback was not stored")
    date(settings, [a["id"] for a in answers], monday)
    right = sum(a["label"] == t for a, t in zip(answers, truth, strict=True)) / len(truth)
    return {"answered by": sorted({a["version"] for a in answers}), "rows": len(rows), "right": round(right, 4)}


def date(settings, ids, monday):
    "Spread answers over a week, once all of them are in the journal"
    journal = sqlite3.connect(settings.root / "journal" / "journal.db", timeout=30, isolation_level=None)
    there = "select count(*) from predictions where id in (select value from json_each(?))"
    until(
        lambda: journal.execute(there, [json.dumps(ids)]).fetchone() == (len(ids),),
        "answers are missing in the journal",
    )
    moments = [int(1000 * (monday + WEEK * (number + 0.5) / len(ids))) for number in range(len(ids))]
    dated = [(f"{moment:012x}{id_[12:]}", id_) for moment, id_ in zip(moments, ids, strict=True)]
    journal.execute("begin immediate")
    for table in ("predictions", "feedback"):
        journal.executemany(f"update {table} set id = ? where id = ?", dated)
    journal.execute("commit")
    journal.close()


def odds(settings):
    "What the journal says about the model in service, for each question"
    _, bundle = champion_of(settings, settings.model.name)
    journal = open_journal("", settings.path(settings.journal.folder))
    found = look_back(journal, bundle, settings.drift).drift.findings
    journal.close()
    return {finding.question: float(f"{finding.odds:.3g}") for finding in found}


def round_(settings, moment, asked=""):
    "A round of retraining, as it is recorded"
    began = time.perf_counter()
    done = retrain(settings, asked=asked, now=moment)
    return {
        "triggers": [f"{t.kind}: {t.says.split(' (found ')[0]}" for t in done.triggers],
        "result": done.result,
        "why": done.why,
        "version": done.version,
        "live": bool(done.promoted),
    }, time.perf_counter() - began


def live(year, tell=lambda week: None):
    "The year; what each week brought, and the seconds of each round"
    told, seconds = [], []
    with TemporaryDirectory() as folder:
        settings = begin(Path(folder), year)
        monday = time.time() // WEEK * WEEK + WEEK
        first, took = round_(settings, time.time())
        seconds.append(took)
        with service(settings) as url:
            for week in year.weeks:
                rows = weeks.stream(13 + week % 12, year.drift(week), seed=week)[week // 12 % 4 :: 4]
                brought = {
                    "week": week,
                    "drift": year.drift(week),
                    "above 41": round(float((rows["age"] > 41).mean()), 4),
                }
                brought |= send(url, settings, rows, monday + WEEK * week) | {"odds": odds(settings)}
                done, took = round_(settings, monday + WEEK * (week + 1))
                if done["live"]:
                    until(lambda v=done["version"]: ask(url, "/model")["version"] == v, "the service does not follow")
                told.append(brought | done)
                if done["result"] != "nothing to do":
                    seconds.append(took)
                tell(told[-1])
                if week == year.quiet:
                    (settings.root / "params.yaml").write_text(WORSE[year.model])
                    worse, took = round_(settings, monday + WEEK * (week + 1.2), "a simpler model")
                    (settings.root / "params.yaml").unlink()
                    seconds.append(took)
        return {"first": first, "worse": worse, "weeks": told}, seconds


def identify():
    "Commits are made in somebody's name"
    for role in ("AUTHOR", "COMMITTER"):
        os.environ[f"GIT_{role}_NAME"], os.environ[f"GIT_{role}_EMAIL"] = "Ada", "ada@example.org"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=YEARS, help="one model; the other stays as recorded")
    parser.add_argument("--record", type=Path, default=RECORD)
    chosen = parser.parse_args()
    identify()
    for name in [chosen.only] if chosen.only else YEARS:
        told, seconds = live(YEARS[name], lambda week: print(json.dumps(week), flush=True))
        kept = json.loads(chosen.record.read_text()) if chosen.record.exists() else {}
        kept[name] = told | {"rounds": len(seconds), "seconds of the longest": round(max(seconds), 1)}
        chosen.record.write_text(json.dumps({n: kept[n] for n in YEARS if n in kept}, indent=1) + "\n")


if __name__ == "__main__":
    main()
