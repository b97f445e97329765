"Keys, scopes and rates, at every way in"

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi.testclient import TestClient

from mlserve.access import NEEDED, route_of
from mlserve.drain import Drain
from mlserve.metrics import Metrics
from mlserve.service import asgi, create
from mlserve.settings import BadSettings, Keys, load_settings
from tests.conftest import Service

OLD, NEW, FEEDBACK, ADMIN = (f"{name}-key-0123456789abcdef" for name in ("old", "new", "feedback", "admin"))
KEYS = {
    "MLSERVE_ACCESS_PREDICT_KEYS": f"{OLD}, sha256:{Keys(NEW)[0]}",
    "MLSERVE_ACCESS_FEEDBACK_KEYS": FEEDBACK,
    "MLSERVE_ACCESS_ADMIN_KEYS": ADMIN,
}
SHAPES = {
    "/predict": {"error", "message", "fields"},
    "/metrics": {"error", "message", "fields"},
    "/feedback": {"error", "message", "fields"},
    "/invocations": {"error_code", "message"},
    "/v1/models/census:predict": {"error"},
    "/v2/models/census/infer": {"error"},
    "/v2/repository/models/census/load": {"error"},
}


@pytest.fixture
def open_service(projects, monkeypatch):
    monkeypatch.delenv("DYNO", raising=False)

    def made(dyno=False, **environ):
        if dyno:
            monkeypatch.setenv("DYNO", "web.1")
        settings = load_settings(projects["census"], environ=environ)
        return TestClient(create(settings, Drain(), Metrics()))

    return made


@pytest.fixture
def service(open_service):
    return open_service(**KEYS)


def row(client):
    return client.get("/model").json()["example"]


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", SHAPES)
def test_without_a_key_nothing_is_answered(service, path):
    method = "GET" if path == "/metrics" else "POST"
    for headers in ({}, bearer("not-a-key-that-anybody-has"), bearer(""), {"authorization": "Basic b2xkOm9sZA=="}):
        refused = service.request(method, path, headers=headers)
        assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert set(refused.json()) == SHAPES[path]


@pytest.mark.parametrize("key", [OLD, NEW, ADMIN])
@pytest.mark.parametrize("headers", [bearer, lambda key: {"x-api-key": key}])
def test_each_key_that_may_predict_does(service, key, headers):
    given = row(service)
    in_lane = service.post("/predict", json=given, headers=headers(key))
    in_app = service.post("/predict", json=[given], headers=headers(key))
    assert in_lane.status_code == in_app.status_code == 200
    assert in_lane.json()["probabilities"] == in_app.json()[0]["probabilities"]


@pytest.mark.parametrize(
    ("key", "path"), [(FEEDBACK, "/predict"), (OLD, "/feedback"), (OLD, "/v2/repository/models/x/load")]
)
def test_a_key_is_good_for_its_scope_only(service, key, path):
    refused = service.post(path, json=row(service), headers=bearer(key))
    assert refused.status_code == 403
    assert "this key is not for" in refused.text


def test_head_needs_the_key_that_get_needs_and_is_counted_as_it(service):
    assert service.head("/metrics").status_code == 401
    assert service.head("/metrics", headers=bearer(OLD)).status_code == service.head("/model").status_code == 200
    told = service.get("/metrics", headers=bearer(OLD)).text
    assert 'mlserve_requests_total{method="GET",route="/metrics",status="401"} 1.0' in told
    assert 'method="HEAD"' not in told


def test_what_only_tells_is_open(service):
    for path in ("/", "/model", "/health/live", "/health/ready", "/openapi.json", "/docs"):
        assert service.get(path).status_code == 200, path
    assert service.get("/nothing").status_code == 401  # whether it is there is nobody's business
    assert service.get("/nothing", headers=bearer(ADMIN)).status_code == 404


@pytest.mark.parametrize("path", ["/predict/", "/nope", "/v2/nope"])
def test_a_mistyped_address_is_not_found_by_whoever_has_a_key(service, path):
    for key in (OLD, FEEDBACK, ADMIN):
        missing = service.post(path, json={}, headers=bearer(key))
        assert missing.status_code == 404 and "GET /docs" in missing.text and "admin" not in missing.text
    assert service.post(path, json={}).status_code == 401


def test_what_is_turned_away_is_counted_and_no_key_is_told(service):
    service.post("/predict", headers=bearer("guess-guess-guess-guess"))
    service.post("/made/up", headers=bearer("guess-guess-guess-guess"))
    told = service.get("/metrics", headers=bearer(OLD)).text
    assert 'mlserve_requests_total{method="POST",route="/predict",status="401"} 1.0' in told
    assert 'mlserve_requests_total{method="other",route="unknown",status="401"} 1.0' in told
    settings = load_settings(environ=KEYS)
    for key in (OLD, NEW, FEEDBACK, ADMIN, "guess"):
        assert key not in told and key not in repr(settings)


def test_the_document_and_the_page_ask_for_the_key(service, open_service):
    document = service.get("/openapi.json").json()
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert document["paths"]["/predict"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert document["paths"]["/model"]["get"]["security"] == []
    assert '"key":true' in service.get("/", headers={"accept": "text/html"}).text
    without = open_service()
    assert "securitySchemes" not in without.get("/openapi.json").json()["components"]
    assert '"key":false' in without.get("/", headers={"accept": "text/html"}).text


def test_without_keys_prediction_is_open_and_a_dyno_has_no_admin_routes(open_service):
    alone, dyno = open_service(), open_service(dyno=True)
    for client in (alone, dyno):
        assert client.post("/predict", json=row(client)).status_code == 200
    refused = dyno.post("/v2/repository/models/census/load")
    assert refused.status_code == 404
    assert refused.json() == dyno.post("/v2/nothing").json()
    for client, there in ((alone, True), (dyno, False)):
        published = client.get("/openapi.json").json()["paths"]
        assert ("/v2/repository/models/{model}/load" in published) is there
        assert ("/v2/repository/models/{model}/unload" in published) is there
        assert ("model_repository" in client.get("/v2").json()["extensions"]) is there
        assert "/v2/repository/index" in published
    public = open_service(MLSERVE_SERVE_HOST="0.0.0.0")
    assert public.post("/v2/repository/models/census/load").status_code == 404


@pytest.mark.parametrize(("host", "status"), [("127.0.0.1", 200), ("0.0.0.0", 404)])
def test_admin_routes_are_for_whom_uvicorn_lets_in(projects, host, status):
    running = Service(projects["census"], "--host", host, MLSERVE_SERVE_DRAIN=0.1)
    try:
        assert httpx.post(f"{running.url}/v2/repository/models/census/load").status_code == status
    finally:
        running.stop()


def test_a_server_that_does_not_say_where_it_listens_has_no_admin_routes(projects):
    with TestClient(asgi(load_settings(projects["census"], environ={}))) as client:
        assert client.post("/predict", json=row(client)).status_code == 200
        assert client.post("/v2/repository/models/census/load").status_code == 404


def test_below_a_root_path_the_same_routes_need_the_same_keys(projects):
    running = Service(projects["census"], "--root-path", "/api", MLSERVE_SERVE_DRAIN=0.1, **KEYS)
    try:
        with httpx.Client(base_url=running.url) as client:
            given, infer = row(client), "/v2/models/census/infer"
            assert client.get("/health/live").status_code == 200
            assert [client.post(path, json=given).status_code for path in SHAPES if path != "/metrics"] == [401] * 6
            assert client.post(infer, json=given).json().keys() == {"error"}
            assert client.post(infer, json=given, headers=bearer(OLD)).json().keys() == {"error"}
            for sent in (given, [given]):
                assert client.post("/predict", json=sent, headers=bearer(OLD)).status_code == 200
            assert client.get("/openapi.json").json()["servers"] == [{"url": "/api"}]
    finally:
        running.stop()


def test_every_route_says_what_it_needs(open_service):
    paths = open_service().app.app.make().routes
    served = {route.path for route in paths}
    assert "/predict" in served and served <= set(NEEDED), served - set(NEEDED)
    for route in served:
        assert route_of(route.replace("{", "").replace("}", ""))[1] == NEEDED[route]


def test_an_address_is_the_last_one_forwarded_and_only_on_a_dyno(open_service):
    limit = {"MLSERVE_ACCESS_RATE": "0.001", "MLSERVE_ACCESS_BURST": "2"}

    def statuses(client, *forwarded):
        given = row(client)
        return [client.post("/predict", json=given, headers={"x-forwarded-for": f}).status_code for f in forwarded]

    dyno = open_service(dyno=True, **limit)
    assert statuses(dyno, *(f"10.0.0.{i}, 203.0.113.7" for i in range(4))) == [200, 200, 429, 429]
    assert statuses(dyno, "203.0.113.7, 203.0.113.8") == [200]
    assert statuses(dyno, *(f"2001:db8::{i}" for i in range(3))) == [200, 200, 429]


def test_elsewhere_nobody_can_claim_an_address(open_service):
    client = open_service(MLSERVE_ACCESS_RATE="0.001", MLSERVE_ACCESS_BURST="2")
    given = row(client)
    seen = [client.post("/predict", json=given, headers={"x-forwarded-for": f"10.0.0.{i}"}) for i in range(3)]
    assert [answer.status_code for answer in seen] == [200, 200, 429]
    assert int(seen[2].headers["retry-after"]) > 900 and seen[2].json()["error"] == "too_many_requests"
    assert client.get("/health/live").status_code == 200


def test_each_key_has_a_rate_of_its_own_and_guessing_counts(open_service):
    client = open_service(**KEYS, MLSERVE_ACCESS_RATE="0.001", MLSERVE_ACCESS_BURST="2")
    given = row(client)

    def ask(key):
        return client.post("/predict", json=given, headers=bearer(key)).status_code

    assert [ask(f"guess-{i}-0123456789abcdef") for i in range(3)] == [401, 401, 429]
    assert [ask(OLD) for _ in range(3)] == [200, 200, 429]
    assert ask(NEW) == 200


def test_pages_of_others_may_call_only_where_that_is_set(open_service):
    asking = {"origin": "https://example.org", "access-control-request-method": "POST"}
    closed, opened = open_service(), open_service(MLSERVE_ACCESS_ORIGINS="https://example.org", **KEYS)
    assert not [name for name in closed.options("/predict", headers=asking).headers if name.startswith("access-")]
    preflight = opened.options("/predict", headers=asking | {"access-control-request-headers": "authorization"})
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"
    other = opened.options("/predict", headers=asking | {"origin": "https://example.com"})
    assert "access-control-allow-origin" not in other.headers
    given = row(opened)
    answer = opened.post("/predict", json=given, headers=bearer(OLD) | {"origin": "https://example.org"})
    assert answer.headers["access-control-allow-origin"] == "https://example.org"


@pytest.mark.parametrize(
    ("status", "headers", "limits"),
    [
        (413, {}, {"MLSERVE_SERVE_BODY_LIMIT": "5"}),
        (415, {"content-encoding": "gzip"}, {}),
        (503, {}, {}),
    ],
)
def test_pages_of_others_can_read_what_the_guard_says(projects, status, headers, limits):
    given = {"MLSERVE_ACCESS_ORIGINS": "https://example.org, https://example.com", **limits}
    guard = asgi(load_settings(projects["census"], environ=given))
    guard.under_way[0] = 1000 if status == 503 else 0
    client = TestClient(guard)
    for origin, may in (("https://example.org", True), ("https://example.net", False)):
        refused = client.post("/predict", content=b"[{}, {}]", headers={"origin": origin, **headers})
        assert refused.status_code == status
        assert (refused.headers.get("access-control-allow-origin") == origin) is may
    assert "access-control-allow-origin" not in client.post("/predict", content=b"[{}, {}]", headers=headers).headers


@pytest.mark.parametrize(
    "text",
    ["a.example", "https://a.example/", "https://a.example, https://b.example/x", "https://A.example",
     "https://a.example:443", "http://a.example:80", "https://münchen.example", "https://a.example https://b.example"],
)  # fmt: skip
def test_an_origin_that_no_browser_sends_is_refused(text):
    with pytest.raises(BadSettings, match=r"MLSERVE_ACCESS_ORIGINS is .* must hold origins as browsers send them"):
        load_settings(environ={"MLSERVE_ACCESS_ORIGINS": text})


@pytest.mark.parametrize(
    "text", ["", "*", "https://a.example", "http://127.0.0.1:8080, https://b.example:8443,", "http://[::1]:8080"]
)
def test_origins_as_browsers_send_them_are_taken(text):
    assert load_settings(environ={"MLSERVE_ACCESS_ORIGINS": text}).access.origins == text


@pytest.mark.parametrize(
    "text", ["short", "spaces in it are not good for a key", "sha256:abc", "schlüssel-schlüssel-schlüssel"]
)
def test_a_key_that_is_none_is_refused_without_being_told(text):
    with pytest.raises(BadSettings, match="MLSERVE_ACCESS_ADMIN_KEYS must hold keys") as refused:
        load_settings(environ={"MLSERVE_ACCESS_ADMIN_KEYS": text})
    assert text not in str(refused.value)


def test_two_workers_share_keys_and_counts(projects):
    limit = {"MLSERVE_ACCESS_RATE": "0.001", "MLSERVE_ACCESS_BURST": "30", "MLSERVE_SERVE_DRAIN": "0.1"}
    running = Service(projects["census"], WEB_CONCURRENCY=2, DYNO="web.1", **limit, **KEYS)
    try:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            body = json.dumps(row(client))

        def ask(number):  # on a connection of its own
            headers = {**bearer(OLD), "content-type": "application/json", "x-forwarded-for": f"203.0.113.{number}"}
            return httpx.post(running.url + "/predict", content=body, headers=headers, timeout=60).status_code

        with ThreadPoolExecutor(8) as threads:
            statuses = Counter(threads.map(ask, range(120)))
        assert statuses == {200: 30, 429: 90}
    finally:
        log = running.stop()
    assert OLD not in log and log.startswith("a key is set, so predictions need one")
