"Promotions and rollbacks while clients ask, among them models that must not go live and a store that hangs."

import asyncio
import http.client
import json
import threading
import time
from contextlib import contextmanager
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from mlserve.bundle import write_bundle
from mlserve.follow import Follower, Place
from mlserve.metrics import Metrics
from mlserve.score import ProbeFailed, load_model
from mlserve.serving import Service as Service_
from mlserve.store import KEPT
from tests.conftest import Service
from tests.faults.shop import Shop, make_bundle, rate_of

EVERY = 0.1  # seconds between two looks


@contextmanager
def following(tmp_path, workers=2, **env):
    "A service that follows a store, and the store"
    shop = Shop(tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    (project / "settings.ini").write_text("[model]\nname = pay\n")
    make_bundle(project / "models" / "pay", "1.0.0", rate_of("1.0.0"), rate_of("1.0.0"))
    given = {"MLSERVE_FOLLOW_EVERY": EVERY, "MLSERVE_STORE_URL": shop.url, "MLSERVE_STORE_WAIT": 10}
    service = Service(project, WEB_CONCURRENCY=workers, MLSERVE_SERVE_DRAIN=0.1, **given | env)
    try:
        # said once all workers are ready: one that begins when what was promoted is damaged serves the model of the slug
        next(line for line in service.process.stdout if b"mlserve answers on" in line)
        yield service, shop
    finally:
        shop.hangs.set()
        service.stop()
        shop.server.shutdown()
        shop.server.server_close()


def get(service, path):
    with urlopen(service.url + path, timeout=60) as answer:
        return answer.read()


def metric(service, name):
    "The samples of a metric, without their time"
    lines = get(service, "/metrics").decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)}


def everywhere(service, version):
    "Do all workers serve this version?"
    served = metric(service, "mlserve_model_info")
    return list(served) and all(f'version="{version}"' in name for name in served)


def until(holds, seconds=60):
    last = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < last, "it did not come true"
        time.sleep(0.02)


class Clients:
    "Keep-alive clients who check that each answer is that of the version it names"

    def __init__(self, service, number, pause):
        self.pause = pause  # seconds between an answer and the next request
        self.answers, self.failures, self.over = 0, [], threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(service.port,)) for _ in range(number)]
        for thread in self.threads:
            thread.start()

    def ask(self, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        age = 20
        while not self.over.is_set():
            age = 20 + (age + 1) % 50
            try:
                connection.request("POST", "/predict", json.dumps({"age": age}), {"content-type": "application/json"})
                answer = connection.getresponse()
                told = json.loads(answer.read())
                right = (
                    answer.status == 200
                    and told["value"] == rate_of(told["version"]) * age
                    and answer.headers["x-model-version"] == f"pay@{told['version']}"
                )
                self.answers += 1
            except Exception as error:
                right, told = False, repr(error)
                connection.close()
            if not right:
                self.failures.append(told)
            time.sleep(self.pause)
        connection.close()

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


FAULTS = ("corrupt", "truncated", "wrong probe", "missing", "hangs")


def drive(service, shop, steps):
    "Promote, damage, roll back; the number of swaps that happened"
    good, swaps = {"1.0.0": shop.release("1.0.0")}, 0
    now = "1.0.0"
    shop.promote(good[now])
    for number in range(1, steps + 1):
        version, fault = f"1.{number}.0", FAULTS[number // 3 % len(FAULTS)] if number % 3 == 0 else ""
        if fault == "hangs":
            shop.hangs.clear()
            good[version] = shop.release(version)
            shop.promote(good[version])
            time.sleep(4 * EVERY)  # several looks begin
            assert everywhere(service, now)
            shop.hangs.set()
            now, swaps = version, swaps + 1
        elif fault:
            shop.promote(shop.release(version, fault))
            until(lambda: b"faults" in get(service, "/health/ready"))
            assert everywhere(service, now)
            shop.promote(good[now])
            until(lambda: not any(metric(service, "mlserve_model_behind").values()))
        elif number % 5 == 0:  # a rollback
            now, swaps = list(good)[-2], swaps + 1
            shop.promote(good[now])
        else:
            good[version] = shop.release(version)
            shop.promote(good[version])
            now, swaps = version, swaps + 1
        until(lambda version=now: everywhere(service, version))
    return swaps


@pytest.mark.parametrize(("steps", "pause"), [(15, 0.03), pytest.param(50, 0.005, marks=pytest.mark.slow)])
def test_swaps_under_load_lose_nothing_and_every_answer_is_of_the_version_it_names(tmp_path, steps, pause):
    with following(tmp_path) as (service, shop):
        clients = Clients(service, 16, pause)
        try:
            swaps = drive(service, shop, steps)
        finally:
            clients.stop()
        assert swaps > steps // 2
        assert clients.answers > 20 * steps
        assert clients.failures == []


def test_models_that_must_not_go_live_do_not_push_the_one_in_service_out_of_the_cache(tmp_path):
    shop = Shop(tmp_path)
    place = Place(shop.folder, "pay", "prod", tmp_path / "cache")
    service = Service_(
        load_model(make_bundle(tmp_path / "pay", "1.0.0", rate_of("1.0.0"), rate_of("1.0.0"))), None, Metrics()
    )
    follower = Follower(service, place, EVERY)
    shop.promote(shop.release("1.0.1"))
    assert asyncio.run(follower.look()) == "" and service.model.version == "1.0.1"
    for patch in range(2, 2 + 2 * KEPT):
        shop.promote(shop.release(f"1.0.{patch}", "wrong probe"))
        assert "probe" in asyncio.run(follower.look())
    assert len(list(place.cache.iterdir())) == KEPT
    assert service.model.version == "1.0.1" and service.model.bundle.read("contract.json")
    shop.server.server_close()


@pytest.mark.parametrize(
    "probe",
    [
        [],
        {},
        {"rows": 1},
        {"rows": [{}]},
        {"rows": [1]},
        {"rows": [{"age": "x"}]},
        {"values": [None]},
        {"probabilities": 1},
    ],
    ids=str,
)
def test_a_probe_that_is_none_is_said_to_be_one(tmp_path, probe):
    made = make_bundle(tmp_path / "pay", "1.0.0", 1.0, 1.0)
    whole = json.loads(made.read("probe.json"))
    files = {f: made.read(f) for f in made.manifest.files} | {
        "probe.json": json.dumps(whole | probe if probe else probe).encode()
    }
    with pytest.raises(ProbeFailed, match=r"pay 1\.0\.0 .*its probe"):
        load_model(write_bundle(tmp_path / "other", made.manifest, files))


def test_many_swaps_leave_no_open_files_and_no_threads_behind(tmp_path):
    with following(tmp_path, workers=1) as (service, shop):
        models = [("1.1.0", shop.release("1.1.0")), ("1.2.0", shop.release("1.2.0"))]
        process, held = psutil.Process(service.process.pid), []
        for number in range(40):
            version, pointer = models[number % 2]
            shop.promote(pointer)
            until(lambda version=version: everywhere(service, version))
            held.append((process.num_fds(), process.num_threads()))
        files, threads = zip(*held, strict=True)
        # the least of the last ones: a look at the store that is under way holds a file for a moment
        assert min(files[-10:]) <= max(files[:10]) and min(threads[-10:]) <= max(threads[:10])


def test_a_start_falls_back_to_the_model_of_the_slug_when_the_store_is_away(tmp_path):
    with following(tmp_path, workers=1, MLSERVE_STORE_URL="http://127.0.0.1:9") as (service, _):
        ready = json.loads(get(service, "/health/ready"))
        assert ready["version"] == "1.0.0"
        assert "does not answer" in ready["faults"]["model"]
        assert metric(service, "mlserve_model_behind") == {"mlserve_model_behind": 1.0}


def test_a_start_serves_what_is_in_service_and_not_what_is_in_the_slug(tmp_path):
    with following(tmp_path, workers=1) as (service, shop):
        shop.promote(shop.release("1.1.0"))
        until(lambda: everywhere(service, "1.1.0"))
        again = Service(
            tmp_path / "project", MLSERVE_FOLLOW_EVERY=60, MLSERVE_STORE_URL=shop.url, MLSERVE_SERVE_DRAIN=0.1
        )
        try:
            assert json.loads(get(again, "/health/ready"))["version"] == "1.1.0"
        finally:
            again.stop()


def test_a_new_major_waits_until_somebody_says_that_callers_are_ready(tmp_path):
    with following(tmp_path, workers=1) as (service, shop):
        shop.promote(shop.release("2.0.0"))
        until(lambda: b"new major version" in get(service, "/health/ready"))
        assert everywhere(service, "1.0.0")
        assert metric(service, "mlserve_swaps") == {'mlserve_swaps_total{result="failed"}': 1.0}
    second = tmp_path / "second"
    second.mkdir()
    with following(second, workers=1, MLSERVE_FOLLOW_MAJORS="accept") as (service, shop):
        shop.promote(shop.release("2.0.0"))
        until(lambda: everywhere(service, "2.0.0"))


def test_load_has_all_workers_look_at_once(tmp_path):
    key = "swap-key-of-the-test"
    with following(tmp_path, MLSERVE_FOLLOW_EVERY=600, MLSERVE_ACCESS_ADMIN_KEYS=key) as (service, shop):
        headers = {"x-api-key": key}

        def ask(path, data=None):
            with urlopen(Request(service.url + path, data, headers), timeout=60) as answer:
                return answer.status, answer.read()

        shop.promote(shop.release("1.1.0"))
        assert ask("/v2/repository/models/pay/load", b"")[0] == 200

        def swapped():
            served = [
                line for line in ask("/metrics")[1].decode().splitlines() if line.startswith("mlserve_model_info")
            ]
            return all('version="1.1.0"' in line for line in served)

        until(swapped)


def test_load_of_a_new_major_is_refused_and_says_how_to_allow_it(tmp_path):
    key = "swap-key-of-the-test"
    with following(tmp_path, workers=1, MLSERVE_FOLLOW_EVERY=600, MLSERVE_ACCESS_ADMIN_KEYS=key) as (service, shop):
        load = Request(service.url + "/v2/repository/models/pay/load", b"", {"x-api-key": key})

        def refused():
            with pytest.raises(HTTPError) as error:
                urlopen(load, timeout=60)
            with error.value as answer:
                return answer.code, json.loads(answer.read())

        shop.promote(shop.release("2.0.0"))
        status, told = refused()
        assert status == 409 and "set majors = accept in [follow], or deploy it" in json.dumps(told)
        shop.promote(shop.release("1.1.0", "corrupt"))
        assert refused()[0] == 503
        assert json.loads(get(service, "/health/ready"))["version"] == "1.0.0"


def test_without_a_store_the_model_that_stands_here_is_served(tmp_path):
    with following(tmp_path, workers=1, MLSERVE_STORE_URL="") as (service, _):
        ready = json.loads(get(service, "/health/ready"))
        assert ready["version"] == "1.0.0"
        assert "no store is set" in ready["faults"]["model"]
