"The journal under load, with many writers, on a real SQLite and a real PostgreSQL, and while either is away"

import asyncio
import json
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

import mlserve.feedback
from mlserve.commit import Committer, Line
from mlserve.contract import Contract, Field, Output, to_json
from mlserve.database import (
    MIGRATIONS,
    MODELS,
    PREDICTIONS,
    NoDatabase,
    first_id,
    forget,
    insert,
    migrate,
    new_id,
    open_file,
    open_url,
    put_truths,
    read,
    served,
)
from mlserve.feedback import read_feedback
from mlserve.journal import Journal
from mlserve.metrics import Metrics
from mlserve.sampling import is_sampled
from mlserve.settings import Journal as Settings
from mlserve.settings import load_settings

from .conftest import Service, environment, free_port
from .databases import postgresql

HERE = Path(__file__).resolve().parent
CONTRACT = Contract(
    (Field("age", "integer"), Field("job", "text", nullable=True)), Output("binary", "y", ("no", "yes"), "yes")
)


@pytest.fixture(scope="module")
def server():
    with postgresql(free_port()) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request, tmp_path):
    "Opens connections to one empty database"
    if request.param == "sqlite":
        return lambda: open_file(tmp_path / "journal.db")
    url = request.getfixturevalue("server").new()
    return lambda: open_url(url)


@pytest.fixture
def database(opened):
    database = opened()
    migrate(database)
    yield database
    database.close()


def fill(database, count, at=None):
    ids = [first_id(at + number)[:12] + new_id()[12:] if at else new_id() for number in range(count)]
    insert(database, "models", MODELS, [["census", "1", json.dumps(to_json(CONTRACT))]])
    insert(database, "predictions", PREDICTIONS, [[i, "census", "1", [7, None], [1, 0.25, 0.75]] for i in ids])
    return ids


# One behaviour in two dialects


def test_what_is_written_is_read_whatever_stands_in_it(database):
    rows = [[1, "\0"], [-(2**53), "\u2028 ' \" \\ ; drop table"], [0, None], [3, "🎈" * 300]]
    insert(database, "models", MODELS, [["census", "1", json.dumps(to_json(CONTRACT))]])
    ids = [new_id() for _ in rows]
    shares = [0, 0.1 + 0.2, 5e-324]
    insert(
        database, "predictions", PREDICTIONS, [[i, "census", "1", r, shares] for i, r in zip(ids, rows, strict=True)]
    )
    found = {e.id: e for e in read(database, "census")}
    assert [list(found[i].row.values()) for i in ids] == rows
    assert found[ids[0]].probabilities == (0.1 + 0.2, 5e-324)


def test_reading_goes_page_by_page_in_the_order_of_time(database, monkeypatch):
    monkeypatch.setattr("mlserve.database.PAGE", 3)
    ids = fill(database, 10, at=1_700_000_000)
    assert [e.id for e in read(database, "census")] == ids
    assert [e.id for e in read(database, "census", since=1_700_000_003, until=1_700_000_005)] == ids[3:5]
    assert [round(e.at) for e in read(database, "census", since=1_700_000_009)] == [1_700_000_009]


def test_truth_may_come_before_its_answer(database):
    early = new_id()
    with database.transaction():
        put_truths(database, [(early, "yes")])
    assert list(read(database, "census", labelled=True)) == []
    fill(database, 2)
    insert(database, "predictions", PREDICTIONS, [[early, "census", "1", [1, None], [0, 0.9, 0.1]]])
    [entry] = read(database, "census", labelled=True)
    assert (entry.id, entry.answer, entry.truth) == (early, "no", "yes")
    assert len(list(read(database, "census"))) == 3


def test_feedback_says_what_became_of_each(database):
    one, two = new_id(), new_id()
    with database.transaction():
        said = put_truths(database, [(one, "yes"), (two, "no"), (one, "yes"), (one, "no"), (two, "no"), (one, "yes")])
    assert said == ["stored", "stored", "repeated", "corrected", "repeated", "corrected"]


def test_the_newest_statement_stands_in_whatever_order_they_come(database):
    one, two = new_id(), new_id()

    def tell(*truths):
        with database.transaction():
            return put_truths(database, truths)

    assert tell((one, "no", 1_000), (two, "no", 5_000)) == ["stored", "stored"]
    assert tell((one, "yes", 3_000)) == ["corrected"]
    assert tell((one, "no", 1_000), (one, "no", 2_999), (one, "yes", 3_000)) == ["outdated", "outdated", "repeated"]
    assert tell((one, "yes", 9_000), (one, "no", 8_000)) == ["repeated", "outdated"]  # said again, and so later
    assert tell((two, "yes", 4_000), (two, "yes", 6_000), (two, "no", 5_000)) == ["outdated", "corrected", "outdated"]
    assert tell((one, "no"), (one, "yes")) == ["corrected", "corrected"]  # without a time, as they come
    assert tell((one, "no", 10_000)) == ["outdated"]
    stored = dict(database.run("select id, truth from feedback"))
    assert {i: json.loads(t) for i, t in stored.items()} == {one: "yes", two: "yes"}


def statements(database, monkeypatch, truths):
    "What is run to put truths: (statement, parameters)"
    seen, run = [], database.run
    with database.transaction(), monkeypatch.context() as patch:
        patch.setattr(database, "run", lambda sql, *parameters: seen.append((sql, parameters)) or run(sql, *parameters))
        put_truths(database, truths)
    return seen


def test_a_list_takes_as_many_statements_however_often_it_names_an_answer(database, monkeypatch):
    one, two = new_id(), new_id()
    few = statements(database, monkeypatch, [(one, "yes"), (one, "no"), (two, "no", 5), (two, "yes", 4)])
    many = [(one, "yes"), (one, "no")] * 1_000 + [(two, "yes", said) for said in range(1_000)]
    assert len(statements(database, monkeypatch, many)) == len(few) == 3


def test_what_is_told_again_is_looked_up_and_not_looked_for(database, monkeypatch):
    ids = [new_id() for _ in range(30_000)]  # of fewer PostgreSQL rightly makes a hash table
    with database.transaction():
        put_truths(database, [(one, "yes") for one in ids])
    explain = "explain query plan " if database.dialect.name == "sqlite" else "explain "
    if explain == "explain ":
        database.run("analyze feedback")
    seen = statements(database, monkeypatch, [(one, truth) for one in ids[:100] for truth in ("yes", "no")])
    plans = [" ".join(map(str, row)) for sql, told in seen for row in database.run(explain + sql, *told)]
    assert len(seen) == 3
    assert [plan for plan in plans if "feedback USING PRIMARY KEY" in plan or "Index Scan using feedback_pkey" in plan]
    assert [plan for plan in plans if "SCAN feedback" in plan or "Seq Scan on feedback" in plan] == []


def test_a_list_does_what_its_items_would_do_one_by_one(database, monkeypatch):
    monkeypatch.setattr("mlserve.database.time.time_ns", lambda: 1_700_000_000_000_000_000)
    draw = random.Random(5)
    times = [None, 1_000, 2_000, 3_000, 1_700_000_000_000, 1_700_000_000_001]
    for _ in range(100):
        names, count = [(new_id(), new_id()) for _ in range(3)], draw.randint(1, 12)
        told = [(draw.randrange(3), draw.choice("ab"), draw.choice(times)) for _ in range(count)]
        split = draw.randint(0, count)
        with database.transaction():
            together = [
                state
                for part in (told[:split], told[split:])
                for state in put_truths(database, [(names[which][0], *said) for which, *said in part])
            ]
            single = [put_truths(database, [(names[which][1], *said)])[0] for which, *said in told]
        assert together == single, told
        rows = {row[0]: row[1:] for row in database.run("select id, truth, said, at, revision from feedback")}
        assert all(rows.get(left) == rows.get(right) for left, right in names), told


def test_a_journal_of_the_first_version_is_brought_up_to_date(opened):
    database = opened()
    migrate(database, MIGRATIONS[:1])
    database.run("insert into feedback (id, truth, at, revision) values (?, ?, 1, 0)", old := new_id(), '"no"')
    assert migrate(database) == len(MIGRATIONS)
    with database.transaction():
        assert put_truths(database, [(old, "yes", 1_000), (old, "no", 500)]) == ["corrected", "outdated"]
    database.run("insert into feedback (id, truth, at, revision) values (?, ?, 1, 0)", new_id(), '"no"')
    database.close()


def test_what_every_version_can_say_is_known(database):
    fill(database, 1)
    true = replace(CONTRACT, output=Output("binary", "y", (False, True), True))
    one = replace(CONTRACT, output=Output("binary", "y", (0, 1), 1))
    for version, contract in (("2", true), ("3", one), ("4", true)):
        insert(database, "models", MODELS, [["census", version, json.dumps(to_json(contract))]])
    assert sorted(repr(o.classes) for o in served(database, "census")) == ["('no', 'yes')", "(0, 1)", "(False, True)"]
    assert served(database, "wine") == ()


def test_what_is_too_old_or_too_much_goes(database):
    ids = fill(database, 10, at=1_700_000_000)
    assert forget(database, 1_700_000_004, 100) == 4
    assert forget(database, 0, 3) == 3
    assert [e.id for e in read(database, "census")] == ids[-3:]


def test_migrations_run_once_though_many_begin_together(opened):
    def begin(_):
        database = opened()
        try:
            return migrate(database)
        finally:
            database.close()

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(begin, range(8))) == {len(MIGRATIONS)}


def test_a_step_that_fails_leaves_nothing_behind(database):
    with pytest.raises(NoDatabase):
        migrate(database, [*MIGRATIONS, ["create table extra (x integer)", "no sql at all"]])
    with pytest.raises(NoDatabase):
        database.run("select * from extra")
    assert migrate(database) == len(MIGRATIONS)


def test_several_write_at_once_and_nothing_is_lost_or_doubled(opened):
    ids = [new_id() for _ in range(200)]

    async def send(seed):
        committer = Committer(opened)
        committer.start()
        mine = random.Random(seed).sample(ids, len(ids))
        try:
            return await asyncio.gather(*[_persist(committer, mine[n : n + 10]) for n in range(0, len(mine), 10)])
        finally:
            await asyncio.to_thread(committer.close, 60)

    with ThreadPoolExecutor(4) as threads:
        told = list(threads.map(lambda seed: asyncio.run(send(seed)), range(4)))
    states = [state for sender in told for group in sender for state in group]
    database = opened()
    stored = database.run("select id, truth, revision from feedback")
    database.close()
    assert states.count("stored") == len(ids) and set(states) == {"stored", "repeated"}
    assert sorted(stored) == sorted((i, '"yes"', 0) for i in ids)


async def _persist(committer, ids):
    "Send feedback as a client does who was told to come back"
    while True:
        try:
            return await committer.commit([(i, "yes") for i in ids])
        except NoDatabase:
            await asyncio.sleep(0.1)


def test_many_rows_are_read_in_proportional_time_and_little_memory(tmp_path):
    fields = tuple(Field(f"f{n}", "number") for n in range(14))
    contract = Contract(fields, CONTRACT.output)
    database = open_file(tmp_path / "journal.db", durable=False)
    migrate(database)
    insert(database, "models", MODELS, [["census", "1", json.dumps(to_json(contract))]])
    values = [n + 0.5 for n in range(14)]
    for start in range(0, 100_000, 5_000):
        ids = [first_id(1_700_000_000 + n)[:12] + "0" * 20 for n in range(start, start + 5_000)]
        insert(database, "predictions", PREDICTIONS, [[i, "census", "1", values, [1, 0.25, 0.75]] for i in ids])

    def spent(rows):
        start = time.process_time()
        total = sum(entry.row["f13"] for entry in islice(read(database, "census"), rows))
        assert total == 13.5 * rows
        return time.process_time() - start

    assert spent(100_000) < 15 * spent(10_000)
    tracemalloc.start()
    try:
        spent(10_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    database.close()
    assert peak < 10_000_000  # bytes, of which all rows at once would take far more


# Away, slow, full


def journal_at(folder, **settings):
    return Journal(Settings(**settings), folder, Metrics().cell)


def count(database, table="predictions"):
    return database.run(f"select count(*) from {table}")[0][0]


def until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_answers_go_through_the_file_to_the_database(tmp_path, server):
    url = server.new()
    journal = journal_at(tmp_path, url=url)
    journal.start()
    record = journal.recorder("census", "1", CONTRACT)
    ids = [new_id() for _ in range(2_500)]
    for id_ in ids:
        record(id_, (40, None), (1, 0.25, 0.75))
    journal.close(60)
    database = open_url(url)
    assert {e.id for e in read(database, "census")} == set(ids)
    database.close()
    spool = journal.open_spool()
    assert count(spool) == 0
    spool.close()
    assert journal.written[0] == journal.shipped[0] == 2_500


def test_while_the_database_is_away_answers_wait_and_feedback_is_refused(tmp_path, caplog):
    with postgresql(free_port()) as server:
        url = server.new()
        journal = journal_at(tmp_path, url=url)
        journal.start()
        record = journal.recorder("census", "1", CONTRACT)
        id_ = new_id()
        assert asyncio.run(journal.keep([(id_, "yes")])) == ["stored"]
        server.stop()
        record(id_, (40, None), (1, 0.25, 0.75))
        with pytest.raises(NoDatabase):
            asyncio.run(journal.keep([(new_id(), "yes")]))
        until(lambda: journal.failing["database"][0])
        assert journal.status()["state"] == "database not reached"
        server.start()
        until(lambda: journal.shipped[0] == 1)
        until(lambda: journal.status()["state"] == "ok")
        assert caplog.messages == [
            "the journal does not reach its database: answers wait in the file",
            "the journal reaches its database again",
        ]
        journal.close()
        database = open_url(url)
        assert [e.truth for e in read(database, "census")] == ["yes"]
        database.close()


def test_a_database_that_says_nothing_is_given_up(monkeypatch, server):
    database = open_url(server.new())
    database.run("set statement_timeout = 0")
    monkeypatch.setattr("mlserve.database.PATIENCE", 0.3)
    start = time.monotonic()
    with pytest.raises(NoDatabase):
        database.run("select pg_sleep(120)")
    assert time.monotonic() - start < 60
    database.close()


def test_what_waits_too_long_goes_oldest_first_and_is_counted(tmp_path):
    url = f"postgres://nobody@127.0.0.1:{free_port()}/none"
    journal = journal_at(tmp_path, url=url, spool_rows=100)
    journal.start()
    record = journal.recorder("census", "1", CONTRACT)
    ids = sorted(new_id() for _ in range(300))
    for id_ in ids:
        record(id_, (40, None), (1, 0.25, 0.75))
    until(lambda: journal.dropped["spool"][0] == 200)
    journal.close(0.5)
    spool = journal.open_spool()
    assert [e.id for e in read(spool, "census")] == ids[-100:]
    spool.close()


def test_a_file_that_takes_nothing_drops_and_says_so(tmp_path, caplog):
    (tmp_path / "journal.db").mkdir()
    journal = journal_at(tmp_path, queue=5)
    record = journal.recorder("census", "1", CONTRACT)
    for _ in range(8):
        record(new_id(), (40, None), (1, 0.25, 0.75))
    journal.start()
    until(lambda: journal.failing["file"][0])
    assert journal.status()["state"] == "file not reached"
    journal.close(1)
    assert (journal.dropped["queue"][0], journal.dropped["disk"][0]) == (3, 5)
    assert caplog.messages == [
        "the journal does not reach its file: unable to open database file",
        "5 answers are lost: the journal could not write them",
    ]


@pytest.mark.parametrize("url", ["", "postgres://nobody@127.0.0.1:1/none"])
def test_a_folder_that_cannot_be_made_is_told_once_and_waited_for(tmp_path, caplog, url):
    folder = tmp_path / "journal"
    folder.write_text("in the way")
    journal = journal_at(folder, url=url)
    record = journal.recorder("census", "1", CONTRACT)
    journal.start()
    record(new_id(), (40, None), (1, 0.25, 0.75))
    until(lambda: journal.failing["file"][0])
    time.sleep(1)  # several tries of each thread
    assert journal.status()["state"] == "file not reached" and len(caplog.messages) == 1
    assert caplog.messages[0].startswith("the journal does not reach its file: ") and str(tmp_path) not in caplog.text
    folder.unlink()
    until(lambda: "the journal reaches its file again" in caplog.messages)
    assert journal.written[0] == 1
    assert journal._threads[1].is_alive()
    journal.close(1)


def test_a_file_that_another_holds_is_waited_for(tmp_path):
    holder = sqlite3.connect(tmp_path / "journal.db", isolation_level=None, check_same_thread=False)
    journal = journal_at(tmp_path)
    journal.start()
    assert asyncio.run(journal.keep([(new_id(), "yes")])) == ["stored"]
    holder.execute("begin immediate")
    threading.Timer(0.5, lambda: holder.execute("commit")).start()
    assert asyncio.run(journal.keep([(new_id(), "yes")])) == ["stored"]
    journal.close()
    holder.close()


def test_only_a_share_is_kept_where_that_is_wished(tmp_path):
    journal = journal_at(tmp_path, sample=0.5)
    journal.start()
    record = journal.recorder("census", "1", CONTRACT)
    for _ in range(1_000):
        record(new_id(), (40, None), (1, 0.25, 0.75))
    journal.close()
    assert 400 < journal.written[0] < 600


def under_load(journal, rates):
    "The ids of what was answered at so many rows a second, one rate a tenth of a second, and the shares that were in force"
    record, ids, shares = journal.recorder("census", "1", CONTRACT), [], []
    for rate in rates:
        shares.append(journal.sampling.share)
        ids.append([new_id() for _ in range(rate // 10)])
        for id_ in ids[-1]:
            record(id_, (40, None), (1, 0.25, 0.75))
        journal.sampling.follow(0.1)
    return ids, shares


def test_lasting_load_is_thinned_to_the_rate_and_recovers(tmp_path):
    journal = journal_at(tmp_path, per_second=50, queue=1_000_000)
    ids, shares = under_load(journal, [1_000] * 600 + [0] * 350)
    waiting = {one.id for one in journal.queue}
    assert waiting == {id_ for some, share in zip(ids, shares, strict=True) for id_ in some if is_sampled(id_, share)}
    steady = [id_ for some in ids[400:600] for id_ in some]
    assert sum(id_ in waiting for id_ in steady) / 20 == pytest.approx(50, rel=0.25)  # eight standard errors
    assert shares[0] == 1 and shares[500] == pytest.approx(0.05, rel=0.02) and journal.sampling.share == 1
    assert journal.left_out[0] == 60_000 - len(waiting) and journal.dropped["queue"][0] == 0


def test_a_burst_is_kept_whole(tmp_path):
    journal = journal_at(tmp_path)
    ids, _ = under_load(journal, [20] * 10 + [90_000] + [20] * 10)
    journal.start()
    journal.close(60)
    spool = journal.open_spool()
    assert {e.id for e in read(spool, "census")} == {id_ for some in ids for id_ in some}
    spool.close()
    assert (journal.written[0], journal.left_out[0], journal.dropped["queue"][0]) == (9_040, 0, 0)


def test_the_oldest_go_as_soon_as_there_are_a_tenth_too_many(tmp_path):
    journal, begin = journal_at(tmp_path, keep_rows=1_000), time.time() - 10_000
    record, file, ids = journal.recorder("census", "1", CONTRACT), journal.open_store(), []
    journal.start()
    for more in (3_000, 200):
        ids += [first_id(begin + len(ids) + number)[:12] + new_id()[12:] for number in range(more)]
        for id_ in ids[-more:]:
            record(id_, (40, None), (1, 0.25, 0.75))
        until(lambda: journal.written[0] == len(ids) and count(file) <= 1_100)  # noqa: B023 (asked here and now)
    journal.close()
    kept = [e.id for e in read(file, "census")]
    file.close()
    assert kept == ids[-len(kept) :] and len(kept) >= 1_000


def test_of_no_rate_everything_is_kept(tmp_path):
    journal = journal_at(tmp_path, per_second=0, queue=1_000_000)
    ids, _ = under_load(journal, [20_000] * 30)
    assert len(journal.queue) == sum(map(len, ids)) == 60_000 and journal.left_out[0] == 0


def test_the_thread_that_writes_sets_the_share_and_tells_it(tmp_path):
    measures = Metrics()
    journal = Journal(Settings(per_second=1), tmp_path, measures.cell)
    record = journal.recorder("census", "1", CONTRACT)
    for _ in range(1_000):
        record(new_id(), (40, None), (1, 0.25, 0.75))
    journal.start()
    until(lambda: journal.sampling.share < 0.1)
    record(out := new_id()[:-8] + "ffffffff", (40, None), (1, 0.25, 0.75))
    assert journal.status()["share"] < 0.1
    assert asyncio.run(journal.keep([(out, "yes")])) == [
        "stored"
    ]  # truths are taken for answers that were left out too
    journal.close()
    said = dict(line.rsplit(" ", 1) for line in measures.text().decode().splitlines() if not line.startswith("#"))
    assert float(said["mlserve_journal_share"]) < 0.1 and said["mlserve_journal_left_out_total"] == "1.0"
    assert journal.written[0] == 1_000


def test_a_connection_that_died_is_replaced_at_once(server):
    url = server.new()
    line = Line(lambda: open_url(url))
    [(process,)] = line.run(lambda database: database.run("select pg_backend_pid()"))
    other = open_url(server.url("postgres"))
    other.run("select pg_terminate_backend(?)", process)
    other.close()
    assert line.run(lambda database: database.run("select 1")) == [(1,)] and not line.closed
    line.close()


# Killed


def acknowledged(folder, url, seed):
    "The ids that a process had acknowledged when it was killed under load"
    command = [sys.executable, HERE / "faults/journal_sender.py", folder]
    with subprocess.Popen(command, env=environment(DATABASE_URL=url), stdout=subprocess.PIPE) as process:
        told = b"".join(islice(process.stdout, random.Random(seed).randrange(21, 400)))
        process.kill()
        told += process.stdout.read()
    assert process.returncode == -signal.SIGKILL
    return [line.decode() for line in told.splitlines() if len(line) == 32]


def kill_again_and_again(opened, folder, url, rounds):
    "How many truths were acknowledged over all rounds, and which of them are not there"
    told = [id_ for seed in range(rounds) for id_ in acknowledged(folder, url, seed)]
    database = opened()
    stored = dict(database.run("select id, truth from feedback"))
    database.close()
    return len(told), [id_ for id_ in told if stored.get(id_) != '"yes"']


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_what_was_acknowledged_survives_kill_9(kind, rounds, tmp_path, request):
    url = request.getfixturevalue("server").new() if kind == "postgresql" else ""
    opened = (lambda: open_url(url)) if url else lambda: open_file(tmp_path / "journal.db")
    told, lost = kill_again_and_again(opened, tmp_path, url, rounds)
    print(f"{kind}: {told} truths acknowledged, {rounds} times killed, {len(lost)} lost")
    assert told > 20 * rounds and lost == []


# The service


def feedback(client, given):
    return client.post("/feedback", json=given)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_service_answered_is_there_when_it_has_stopped(census, workers):
    service = Service(census, MLSERVE_SERVE_DRAIN=0.1, WEB_CONCURRENCY=workers)
    with httpx.Client(base_url=service.url, timeout=30) as client:
        row = client.get("/model").json()["example"]
        answers = [client.post("/predict", json={**row, "age": 20 + n}).json() for n in range(30)]
        answers += client.post("/predict", json=[row] * 300).json()
        odd = client.post("/predict", json={**row, "native-country": "Atlantis"}).json()
        ready = client.get("/health/ready").json()
        states = feedback(client, [{"id": a["id"], "label": a["label"]} for a in answers[:50]]).json()
        metrics = client.get("/metrics").text
    service.stop()
    assert ready["journal"] == {"state": "ok", "place": "file", "waiting": ready["journal"]["waiting"], "share": 1.0}
    assert {s["state"] for s in states} == {"stored"} and 'mlserve_feedback_total{state="stored"} 50.0' in metrics
    settings = load_settings(census, environ={})
    database = open_file(settings.path(settings.journal.folder) / "journal.db")
    found = {e.id: e for e in read(database, "census")}
    database.close()
    assert found.keys() == {a["id"] for a in [*answers, odd]}
    assert [found[a["id"]].row["age"] for a in answers[:30]] == list(range(20, 50))
    assert all(found[a["id"]].answer == a["label"] for a in answers)
    assert all(list(found[a["id"]].probabilities) == list(a["probabilities"].values()) for a in answers)
    assert sum(e.truth is not None for e in found.values()) == 50


@pytest.fixture(scope="module")
def client(services):
    with httpx.Client(base_url=services["census"].url, timeout=30) as client:
        yield client


BAD = {
    "no object": (["x"], None),
    "no id": ({"label": ">50K"}, "id"),
    "no label": ({"id": "ID"}, "label"),
    "id of another kind": ({"id": 7, "label": ">50K"}, "id"),
    "made up": ({"id": "f" * 32, "label": ">50K"}, "id"),
    "upper case": ({"id": "A" * 32, "label": ">50K"}, "id"),
    "unknown class": ({"id": "ID", "label": "rich"}, "label"),
    "a list": ({"id": "ID", "label": [">50K"]}, "label"),
    "a number": ({"id": "ID", "label": 1}, "label"),
    "null": ({"id": "ID", "label": None}, "label"),
    "of a regression": ({"id": "ID", "value": 1.0}, "label"),
    "no time": ({"id": "ID", "label": ">50K", "at": 17}, "at"),
    "the future": ({"id": "ID", "label": ">50K", "at": "2999-01-01T00:00:00Z"}, "at"),
    "more": ({"id": "ID", "label": ">50K", "by": "me"}, "by"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_feedback_names_the_field(client, case):
    given, field = BAD[case]
    if isinstance(given, dict) and given.get("id") == "ID":
        given = {**given, "id": new_id()}
    refused = feedback(client, given)
    assert refused.status_code == 422, refused.text
    assert refused.json()["fields"][0]["field"] == field


def test_of_a_list_the_good_is_kept_and_the_bad_is_told(client):
    good = {"id": new_id(), "label": ">50K"}
    answer = feedback(client, [good, {**good, "label": "rich"}, good])
    assert answer.status_code == 200
    assert [one["state"] for one in answer.json()] == ["stored", "refused", "repeated"]
    assert answer.json()[1]["field"] == "label" and "rich" not in answer.json()[1]["message"]
    assert feedback(client, {**good, "label": "<=50K"}).json() == {"id": good["id"], "state": "corrected"}
    assert feedback(client, []).json() == []


def test_others_have_their_turn_while_a_long_list_is_looked_at(monkeypatch):
    older = Output("multiclass", "y", ("no", "yes", "unknown"))
    model = SimpleNamespace(name="census", contract=CONTRACT)
    asked, looked, between = [], [0], []
    plain = mlserve.feedback._problem

    class Kept:
        async def served(self, name):
            asked.append(name)
            return CONTRACT.output, older

    def problem(*told):
        looked[0] += 1
        return plain(*told)

    async def other():
        while True:
            between.append(looked[0])
            looked[0] = 0
            await asyncio.sleep(0)

    async def look(given):
        waiting = asyncio.create_task(other())
        found = await mlserve.feedback._sorted(model, Kept(), given, False)
        waiting.cancel()
        return found

    monkeypatch.setattr(mlserve.feedback, "_problem", problem)
    good, late, bad = ({"id": new_id(), "label": label} for label in ("yes", "unknown", "maybe"))
    given = [good] * 2_000 + [late, bad] * 2_000
    found = asyncio.run(look(given))
    assert max(between) <= 3 * mlserve.feedback.TURN and asked == ["census"]
    assert [number for number, item in enumerate(given) if item is not bad] == sorted(found.truths)
    assert {(number, error.row) for number, error in found.errors.items()} == {(n, n) for n in range(2_001, 6_000, 2)}


def test_late_feedback_may_name_a_class_of_an_older_version(census):
    older = replace(CONTRACT, output=Output("multiclass", "income", ("<=50K", ">50K", "unknown")))
    database = open_file(census / "journal" / "journal.db")
    migrate(database)
    insert(database, "models", MODELS, [["census", "0.9.0", json.dumps(to_json(older))]])
    database.close()
    service = Service(census, MLSERVE_SERVE_DRAIN=0.1)
    with httpx.Client(base_url=service.url, timeout=30) as client:
        one = {"id": new_id(), "label": "unknown", "at": "2026-03-02T10:00:00+01:00"}
        assert feedback(client, one).json()["state"] == "stored"
        assert feedback(client, {**one, "label": "rich"}).status_code == 422
        assert (
            feedback(client, {**one, "label": ">50K", "at": "2026-03-02T09:00:00.001Z"}).json()["state"] == "corrected"
        )
        assert feedback(client, one).json()["state"] == "outdated"  # a late retry changes nothing
    service.stop()


def test_feedback_is_json_and_stands_in_the_description(client):
    assert client.post("/feedback", content=b"id=1").status_code == 415
    assert client.post("/feedback", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    post = client.get("/openapi.json").json()["paths"]["/feedback"]["post"]
    assert "requestBody" in post and "200" in post["responses"]


def test_a_dyno_without_a_database_says_so_and_refuses_feedback(census):
    service = Service(census, MLSERVE_SERVE_DRAIN=0.1, DYNO="web.1")
    with httpx.Client(base_url=service.url, timeout=30) as client:
        row = client.get("/model").json()["example"]
        answer = client.post("/predict", json=row).json()
        refused = feedback(client, {"id": answer["id"], "label": answer["label"]})
        ready = client.get("/health/ready").json()
    said = service.stop()
    assert refused.status_code == 503 and refused.headers["retry-after"] and "DATABASE_URL" in refused.json()["message"]
    assert ready["ready"] and ready["journal"]["state"] == "ephemeral" and "DATABASE_URL is not set" in said


def test_a_service_starts_and_answers_while_the_database_is_away(census):
    url = f"postgres://user:hidden@127.0.0.1:{free_port()}/none"
    service = Service(census, MLSERVE_SERVE_DRAIN=0.1, DATABASE_URL=url)
    with httpx.Client(base_url=service.url, timeout=30) as client:
        row = client.get("/model").json()["example"]
        answers = [client.post("/predict", json=row) for _ in range(20)]
        refused = feedback(client, {"id": answers[0].json()["id"], "label": ">50K"})
        ready = client.get("/health/ready")
        metrics = client.get("/metrics").text
    said = service.stop()
    assert {a.status_code for a in answers} == {200} and refused.status_code == 503
    assert ready.status_code == 200 and ready.json()["journal"]["state"] == "database not reached"
    assert 'mlserve_journal_failing{place="database"}' in metrics
    assert "hidden" not in said + refused.text + ready.text + metrics


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux limits the files of another process")
def test_a_full_disk_stops_no_answer_and_loses_nothing_that_was_acknowledged(census):
    service = Service(census, MLSERVE_SERVE_DRAIN=0.1)
    process = service.process.pid

    def disk(limit):  # what the disk takes of a file, in bytes
        resource.prlimit(process, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    with httpx.Client(base_url=service.url, timeout=30) as client:
        row = client.get("/model").json()["example"]

        def answered():
            return client.post("/predict", json=row).json()["id"]

        def truth(name):
            return feedback(client, {"id": name, "label": ">50K"})

        def state():
            return client.get("/health/ready").json()["journal"]["state"]

        before = [answered() for _ in range(5)]
        kept = [truth(name).json() for name in before]
        until(lambda: client.get("/health/ready").json()["journal"]["waiting"] == 0)
        disk(4096)
        during = [answered() for _ in range(200)]
        until(lambda: state() == "file not reached")
        refused = [truth(name) for name in during[:3]]
        metrics = client.get("/metrics").text
        disk(resource.RLIM_INFINITY)
        until(lambda: state() == "ok")
        kept += [truth(name).json() for name in during[:3]]
    said = service.stop()
    assert {one["state"] for one in kept} == {"stored"}
    assert {answer.status_code for answer in refused} == {503} and all(a.headers["retry-after"] for a in refused)
    assert 'mlserve_journal_failing{place="file"} 1.0' in metrics and "Traceback" not in said
    assert [said.count(told) for told in ("does not reach its file: ", "reaches its file again")] == [1, 1]
    database = open_file(census / "journal" / "journal.db")
    found = {e.id: e.truth for e in read(database, "census")}
    database.close()
    assert found.keys() == {*before, *during}
    assert {name for name, true in found.items() if true} == {*before, *during[:3]}


def test_a_line_of_json_ends_where_json_says(tmp_path):
    path = tmp_path / "truth.jsonl"
    said = {"id": new_id(), "label": "one\u2028two\u0085three"}
    path.write_bytes("\r\n".join([json.dumps(said, ensure_ascii=False), "", json.dumps(said)]).encode())
    assert read_feedback(path, []) == [said, said]
