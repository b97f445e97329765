"A candidate beside a live service: what it said, what was dropped, and that nobody waited for it"

import json
import threading
import time
from dataclasses import replace
from hashlib import md5
from types import SimpleNamespace

import httpx
import pytest

from mlserve.bundle import read_bundle
from mlserve.contract import check_rows
from mlserve.data import load_table
from mlserve.database import new_id, open_file
from mlserve.journal import Answered, Journal, Source
from mlserve.metrics import Metrics
from mlserve.recipe import find_recipe
from mlserve.remote import Folder
from mlserve.retrain import train
from mlserve.score import load_model
from mlserve.settings import Comparing, Store, load_settings
from mlserve.settings import Shadow as Given
from mlserve.shadow import WAITING, OtherTask, Shadow, comparable, disagreements
from mlserve.store import Pointer, manifest_digest, object_path, write_pointer

from .conftest import Service, copy_project, free_port, mlserve
from .databases import postgresql
from .test_cli import printed
from .test_journal import until

OTHER = {"wine": "C: 0.001", "diabetes": "alpha: 2.0"}


@pytest.fixture(scope="module", params=OTHER)
def pair(request, projects, tmp_path_factory):
    "A project, and a candidate for its model that answers otherwise"
    root = copy_project(projects[request.param], tmp_path_factory.mktemp("pair") / request.param)
    (root / "params.yaml").write_text(f"{request.param}:\n  pipeline:\n    {OTHER[request.param]}\n")
    settings = load_settings(root, environ={})
    made = replace(settings, compare=Comparing(refits=0), model=replace(settings.model, folder=root / "candidates"))
    train(made)
    return root, request.param


def rows_for(root, name):
    settings = load_settings(root, environ={})
    table = load_table(find_recipe(settings.model.recipe, settings.root), settings)
    return json.loads(table.rows.to_json(orient="records"))


def counted(client, what):
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"mlserve_shadow_{what}_total{{"))


def test_what_the_candidate_said_is_told(pair):
    root, name = pair
    champion, candidate = (load_model(read_bundle(root / folder / name)) for folder in ("models", "candidates"))
    rows = rows_for(root, name)
    service = Service(root, MLSERVE_SERVE_DRAIN=0.1, MLSERVE_SHADOW_FOLDER=f"candidates/{name}", MLSERVE_SHADOW_SHARE=1)
    with httpx.Client(base_url=service.url, timeout=30) as client:
        probe = {**rows[0]}
        sent = []

        def answered():
            sent.append(probe)
            assert client.post("/predict", json=probe).status_code == 200
            time.sleep(0.2)
            return counted(client, "answers") > 0

        until(answered)  # the candidate is loaded after the service is ready
        before = counted(client, "answers")
        first = len(sent)
        assert client.post("/predict", json=rows).status_code == 200
        until(lambda: counted(client, "answers") >= before + len(rows))
        ready = client.get("/health/ready").json()
    said = service.stop()
    assert "in the shadow of" in said and "faults" not in ready
    [told] = printed(mlserve(root, "shadow", "--json"))
    assert (told["champion"], told["candidate"]) == (champion.version, candidate.version)
    assert told["refused"] == 0 and len(rows) + before == told["rows"] <= len(rows) + first
    checked = check_rows(champion.contract, rows).rows
    pairs = [(a.value, b.value) for a, b in zip(champion.score(checked), candidate.score(checked), strict=True)]
    again = told["rows"] - len(rows)  # rows like the first
    if name == "wine":
        flips = sum(a != b for a, b in pairs) + again * (pairs[0][0] != pairs[0][1])
        assert told["flipped"] == flips == sum(told["turned"].values()) and told["low"] < told["figure"] < told["high"]
        assert flips > 5
    else:
        moves = [b - a for a, b in pairs] + again * [pairs[0][1] - pairs[0][0]]
        assert (
            told["figure"] == pytest.approx(sum(moves) / len(moves)) and told["spread"][0] < -1 < 1 < told["spread"][1]
        )
    assert f"{told['rows']:,}" in mlserve(root, "shadow").stdout


@pytest.mark.slow
def test_several_workers_tell_postgresql_what_the_candidate_said(pair):
    root, name = pair
    rows = rows_for(root, name)[:50]
    with postgresql(free_port()) as server:
        given = {"DATABASE_URL": server.new(), "MLSERVE_SHADOW_FOLDER": f"candidates/{name}", "MLSERVE_SHADOW_SHARE": 1}
        service = Service(root, MLSERVE_SERVE_DRAIN=0.1, WEB_CONCURRENCY=2, **given)
        asked = 0
        while asked < 4_000:
            with httpx.Client(base_url=service.url, timeout=30) as client:  # a connection of its own: any worker's
                assert client.post("/predict", json=rows).status_code == 200
                asked += len(rows)
                if counted(client, "answers") >= 500:
                    break
            time.sleep(0.1)
        service.stop()
        [told] = printed(mlserve(root, "shadow", "--json", **given))
    assert told["refused"] == 0 and 500 <= told["rows"] <= asked
    champion, candidate = (load_model(read_bundle(root / folder / name)) for folder in ("models", "candidates"))
    assert (told["champion"], told["candidate"]) == (champion.version, candidate.version)
    checked = check_rows(champion.contract, rows).rows
    pairs = [(a.value, b.value) for a, b in zip(champion.score(checked), candidate.score(checked), strict=True)]
    if name == "wine":  # whole requests may have been left out, so that shares may differ a little
        assert told["figure"] == pytest.approx(sum(a != b for a, b in pairs) / len(pairs), abs=0.05)
    else:
        assert told["figure"] == pytest.approx(sum(b - a for a, b in pairs) / len(pairs), rel=0.2)


def test_without_a_candidate_the_command_says_so(projects):
    done = mlserve(projects["wine"], "shadow")
    assert done.returncode == 0 and "[shadow]" in done.stdout


@pytest.mark.parametrize("where", [{"FOLDER": "nowhere"}, {"STAGE": "challenger"}])
def test_a_service_answers_though_its_candidate_is_missing(pair, where):
    root, name = pair
    service = Service(root, MLSERVE_SERVE_DRAIN=0.1, **{f"MLSERVE_SHADOW_{key}": value for key, value in where.items()})
    with httpx.Client(base_url=service.url, timeout=30) as client:
        until(lambda: "shadow" in client.get("/health/ready").json().get("faults", {}))
        assert client.post("/predict", json=rows_for(root, name)[0]).status_code == 200
        assert client.get("/health/ready").status_code == 200
    assert "no candidate in the shadow" in service.stop()


# One shadow, without a service


class Slow:
    "A candidate that takes its time, or fails"

    def __init__(self, model, work):
        self.calls, self.work = 0, work
        self.model = replace(model, score=self.score, bundle=replaced(model.bundle))
        self.score_ = model.score

    def score(self, rows):
        self.calls += 1
        self.work()
        return self.score_(rows)


def replaced(bundle):
    return replace(bundle, manifest=replace(bundle.manifest, version="9.0.0"))


@pytest.fixture
def made(projects, tmp_path):
    model = load_model(read_bundle(projects["wine"] / "models" / "wine"))
    settings = replace(load_settings(projects["wine"], environ={}), shadow=Given(folder="none", share=1.0))
    metrics = Metrics()
    journal = Journal(settings.journal, tmp_path, metrics.cell)
    service = SimpleNamespace(model=model, journal=journal, faults={})
    return model, journal, Shadow(service, settings, metrics.cell), [*rows_for(projects["wine"], "wine")]


def answered(model, rows, count):
    source = Source(model.name, model.version, model.contract)
    values = [tuple(row.values()) for row in check_rows(model.contract, rows).rows]
    return [Answered(new_id(), source, values[n % len(values)], (0.0,)) for n in range(count)]


def test_what_does_not_fit_is_dropped_and_counted(made):
    model, journal, shadow, rows = made
    batch = answered(model, rows, WAITING + 30)
    shadow.offer(batch)
    assert not shadow.queue and shadow.dropped["busy"][0] == 0  # nobody there yet
    shadow.candidate = Slow(model, lambda: None).model
    shadow.offer(batch)
    assert len(shadow.queue) == WAITING and shadow.dropped["busy"][0] == 30
    shadow.queue.clear()
    journal.queue.extend(batch[:1] * 2_000)  # the journal is behind
    shadow.offer(batch)
    assert not shadow.queue and shadow.dropped["busy"][0] == 60 + WAITING


def test_the_model_in_service_is_not_compared_with_itself(made):
    model, _, shadow, rows = made
    shadow.candidate = model
    shadow.offer(answered(model, rows, 10))
    assert not shadow.queue and shadow.dropped["busy"][0] == 0


def test_a_candidate_that_fails_says_nothing_and_harms_nobody(made):
    model, journal, shadow, rows = made

    def fail():
        raise ZeroDivisionError

    shadow._answer(Slow(model, fail).model, answered(model, rows, 3))
    assert shadow.said["nothing"][0] == 3 and shadow.said["another"][0] == 0
    database = open_file(journal.folder / "journal.db")
    assert database.run("select count(*), min(answer) from shadows") == [(3, "[]")]
    assert disagreements(database, "wine") == []  # their answers were not written
    database.close()


def test_no_answer_waits_for_a_slow_candidate(made):
    model, journal, shadow, rows = made
    go, through = threading.Event(), threading.Event()

    def held():
        go.wait(120)
        through.set()

    slow = Slow(model, held)
    shadow.candidate, shadow._find = slow.model, lambda: None
    journal.seen = shadow.offer
    record = journal.recorder(model.name, model.version, model.contract)
    journal.start()
    shadow._thread.start()
    try:
        for one in answered(model, rows, 2_000):
            record(one.id, one.values, one.outputs)
        until(lambda: journal.written[0] == 2_000 and slow.calls and shadow.dropped["busy"][0] >= 1_000 - 50)
        assert not through.is_set()  # all are written while the candidate still has its first rows
        time.sleep(0.3)  # it takes its time, and rests for longer
        go.set()
        assert through.wait(60)
        time.sleep(0.5)
        assert slow.calls == 1
    finally:
        go.set()
        shadow._stop.set()
        shadow._thread.join(60)
        journal.close()
    assert not any(t.name == "shadow" for t in threading.enumerate())


def test_a_candidate_for_something_else_is_refused(made, projects):
    other = load_model(read_bundle(projects["diabetes"] / "models" / "diabetes"))
    with pytest.raises(OtherTask, match="name a bundle of wine"):
        comparable(other, made[0])


def put(store, folder):
    "Put a bundle into a store as DVC does"

    def one(data, suffix=""):
        name = md5(data).hexdigest() + suffix
        path = store.root / object_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name

    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": one((folder / name).read_bytes()), "relpath": name} for name in names]
    return one(json.dumps(listed).encode(), ".dir")


def test_the_candidate_is_what_its_stage_points_to(pair, tmp_path):
    root, name = pair
    store = Folder(tmp_path / "store")
    settings = load_settings(root, environ={})
    settings = replace(
        settings, shadow=Given(stage="challenger"), store=Store(url=str(store.root), cache=tmp_path / "c")
    )
    metrics = Metrics()
    model = load_model(read_bundle(root / "models" / name))
    service = SimpleNamespace(model=model, journal=Journal(settings.journal, tmp_path, metrics.cell), faults={})
    shadow, was = Shadow(service, settings, metrics.cell), None
    shadow._look()
    assert shadow.candidate is None
    for number, folder in enumerate((root / "candidates" / name, root / "models" / name), 1):
        version = read_bundle(folder).manifest.version
        pointer = Pointer(
            name,
            "challenger",
            version,
            f"{name}#challenger#{number}",
            put(store, folder),
            manifest_digest(folder),
            number,
            "",
        )
        write_pointer(store, pointer, was)
        shadow._look()
        assert shadow.candidate.version == version and not service.faults
        was = pointer
    first = shadow.candidate
    shadow._look()
    assert shadow.candidate is first
