"Every route of a live service: status, body, headers, and what a client's mistakes are told"

import json
import re

import httpx
import jsonschema
import pytest


@pytest.fixture(scope="module")
def client(services):
    with httpx.Client(base_url=services["census"].url, timeout=30) as client:
        yield client


def example(client):
    return client.get("/model").json()["example"]


def post(client, body, **headers):
    return client.post("/predict", content=body, headers={"content-type": "application/json", **headers})


# Answers


def test_the_example_is_answered_by_every_recipe(service):
    with httpx.Client(base_url=service.url, timeout=60) as client:
        model = client.get("/model").json()
        response = client.post("/predict", json=model["example"])
        assert response.status_code == 200
        answer = response.json()
        assert re.fullmatch(r"[0-9a-f]{32}", answer["id"])
        assert (answer["model"], answer["version"]) == (model["name"], model["version"])
        assert response.headers["x-model-version"] == f"{model['name']}@{model['version']}"
        assert response.headers["x-code-version"] == model["code_version"]
        if model["task"] == "regression":
            assert isinstance(answer["value"], float) and "label" not in answer
        else:
            assert answer["label"] in model["classes"]
            assert sum(answer["probabilities"].values()) == pytest.approx(1)
            assert max(answer["probabilities"], key=answer["probabilities"].get) == answer["label"]


def test_the_openapi_document_agrees_with_the_service(service):
    with httpx.Client(base_url=service.url, timeout=60) as client:
        document = client.get("/openapi.json").json()
        schemas = document["components"]["schemas"]
        body = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
        for case in body["examples"].values():
            jsonschema.validate(case["value"], {**body["schema"], "components": document["components"]})
            answers = client.post("/predict", json=case["value"]).json()
            for answer in answers if isinstance(answers, list) else [answers]:
                jsonschema.validate(answer, {**schemas["Answer"], "components": document["components"]})
        jsonschema.validate(client.post("/predict", json={}).json(), schemas["Error"])


def test_a_list_is_answered_with_a_list(client):
    row = example(client)
    assert client.post("/predict", json=[]).json() == []
    one, two = client.post("/predict", json=[row, row]).json()
    assert one["id"] != two["id"] and one["probabilities"] == two["probabilities"]
    alone = client.post("/predict", json=row).json()
    assert alone["probabilities"] == one["probabilities"]


def test_many_rows_in_one_request_are_answered_like_single_ones(client):
    row = example(client)
    rows = [{**row, "age": age} for age in range(17, 91)] * 5
    answers = client.post("/predict", json=rows).json()
    single = [client.post("/predict", json=r).json()["probabilities"] for r in rows[:10]]
    assert [a["probabilities"] for a in answers[:10]] == single and len(answers) == len(rows)


def test_what_training_never_saw_is_answered_with_a_warning(client):
    row = {**example(client), "native-country": "Atlantis"}
    response = client.post("/predict", json=row)
    assert response.status_code == 200
    assert [w["field"] for w in response.json()["warnings"]] == ["native-country"]


def test_a_missing_value_follows_the_contract(client):
    row = example(client)
    without = {k: v for k, v in row.items() if k != "workclass"}
    null = {**row, "workclass": None}
    assert client.post("/predict", json=without).json()["label"] == client.post("/predict", json=null).json()["label"]
    refused = client.post("/predict", json={**row, "age": None})
    assert refused.status_code == 422 and refused.json()["fields"][0]["field"] == "age"


def test_a_declared_range_is_a_limit(client):
    refused = client.post("/predict", json={**example(client), "age": 500})
    assert refused.status_code == 422 and "age" in refused.json()["message"]


# Everything else


def test_the_other_routes(client):
    assert client.get("/health/live").json() == {"live": True}
    ready = client.get("/health/ready").json()
    assert ready["ready"] is True and ready["model"] == "census"
    greeting = client.get("/", headers={"accept": "application/json"})
    assert greeting.status_code == 200 and "message" in greeting.json()
    page = client.get("/", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")


def test_metrics_count_what_was_answered(client):
    def count():
        lines = client.get("/metrics").text.splitlines()
        wanted = [line for line in lines if line.startswith("mlserve_requests_total") and 'route="/predict"' in line]
        return sum(float(line.split()[-1]) for line in wanted if 'status="200"' in line)

    before = count()
    for _ in range(5):
        client.post("/predict", json=example(client))
    assert count() == before + 5


# Mistakes: one shape, the right status, the field's name, nothing of ours


ROW = '{"age": 40'
HOSTILE = {
    "empty": (b"", 400),
    "blank": (b"  \n", 400),
    "not JSON": (b"age=40", 400),
    "half an object": (b'{"age": 40', 400),
    "two values": (b"{} {}", 400),
    "trailing comma": (b'{"age": 40,}', 400),
    "single quotes": (b"{'age': 40}", 400),
    "comment": (b'{"age": 40} // years', 400),
    "NaN": (b'{"age": NaN}', 400),
    "Infinity": (b'{"age": Infinity}', 400),
    "-Infinity": (b'{"age": -Infinity}', 400),
    "nan in a list": (b"[NaN]", 400),
    "duplicate key": (b'{"age": 40, "age": 41}', 400),
    "duplicate key, deep": (b'[{"age": 40, "age": 41}]', 400),
    "bad UTF-8": (b'{"age": "\xff"}', 400),
    "overlong UTF-8": (b'{"age": "\xc0\xaf"}', 400),
    "UTF-16": ('{"age": 40}'.encode("utf-16"), 400),
    "byte order mark": (b'\xef\xbb\xbf{"age": 40}', 400),
    "lone surrogate": (b'{"age": "\\ud800"}', 400),
    "lone surrogate as key": (b'{"\\udfff": 1}', 400),
    "deep list": (b"[" * 50_000, 400),
    "deep object": (b'{"a":' * 50_000, 400),
    "closed deep list": (b"[" * 5_000 + b"]" * 5_000, 400),
    "4,301 digits": (b'{"age": ' + b"9" * 4301 + b"}", 400),
    "300,000 digits": (b'{"age": ' + b"9" * 300_000 + b"}", 400),
    "1e400": (b'{"age": 1e400}', 422),
    "-1e400": (b'{"age": -1e400}', 422),
    "huge integer": (b'{"age": 1' + b"0" * 400 + b"}", 422),
    "beyond 2^53": (b'{"age": 9007199254740993}', 422),
    "null": (b"null", 422),
    "true": (b"true", 422),
    "number": (b"3", 422),
    "text": (b'"row"', 422),
    "empty object": (b"{}", 422),
    "list of null": (b"[null]", 422),
    "list of lists": (b"[[]]", 422),
    "list of numbers": (b"[1, 2]", 422),
    "text for a number": (b'{"age": "40"}', 422),
    "fraction": (b'{"age": 40.5}', 422),
    "boolean": (b'{"age": true}', 422),
    "object": (b'{"age": {}}', 422),
    "list": (b'{"age": []}', 422),
    "number for text": (b'{"workclass": 3}', 422),
    "wrong case": (b'{"Age": 40}', 422),
    "HTML as a key": (b'{"<script>alert(1)</script>": 1}', 422),
    "control characters as a key": (b'{"\\u0000\\u001b[31m": 1}', 422),
    "megabyte of a key": (b'{"' + b"k" * 900_000 + b'": 1}', 422),
    "many unknown keys": (json.dumps({f"k{i}": i for i in range(20_000)}).encode(), 422),
    "many broken rows": (b"[" + b"{}," * 50_000 + b"{}]", 422),
}
OURS = re.compile(rb"(/[a-z]+){2,}\.py|site-packages|Traceback|Error\b|Exception|mlserve\.|pydantic|starlette")


def checked(response):
    "The one shape of an error, with nothing of our insides in it"
    body = response.json()
    assert set(body) == {"error", "message", "fields"}
    assert re.fullmatch(r"[a-z_]+", body["error"]) and body["message"]
    assert len(body["fields"]) <= 20 and len(response.content) < 20_000
    assert response.content.isascii() and not OURS.search(response.content)
    assert response.headers["content-type"] == "application/json"
    return body


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_body_is_refused_in_one_sentence(client, case):
    body, status = HOSTILE[case]
    response = post(client, body)
    assert response.status_code == status, response.text[:300]
    checked(response)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("age", wrong) for wrong in ("40", 40.5, True, [40], {}, None, -1, 2**60)),
        *(("workclass", wrong) for wrong in (3, False, [])),
        ("capital-gain", "0"),
        ("hours-per-week", 400),
    ],
)
def test_a_wrong_value_names_its_field(client, field, value):
    response = client.post("/predict", json={**example(client), field: value})
    body = checked(response)
    assert response.status_code == 422
    assert [f["field"] for f in body["fields"]] == [field] and field in body["message"]
    assert body["fields"][0]["row"] is None


def test_a_wrong_row_is_numbered(client):
    row = example(client)
    body = checked(client.post("/predict", json=[row, {**row, "age": "40"}, row]))
    assert [(f["row"], f["field"]) for f in body["fields"]] == [(1, "age")]


def test_a_whole_fraction_is_whole(client):
    assert post(client, json.dumps({**example(client), "age": 40.0}).encode()).status_code == 200


def test_a_mistyped_field_is_recognised(client):
    body = checked(client.post("/predict", json={**example(client), "workclas": "Private"}))
    assert "did you mean workclass?" in body["message"]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "", "json"],
)
def test_another_content_type_is_named(client, content_type):
    response = client.post("/predict", content=b"{}", headers={"content-type": content_type})
    assert response.status_code == 415
    assert "application/json" in checked(response)["message"]


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8"]
)
def test_json_may_say_its_charset(client, content_type):
    body = json.dumps(example(client)).encode()
    assert client.post("/predict", content=body, headers={"content-type": content_type}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("PUT", "/predict", 405), ("DELETE", "/model", 405), ("POST", "/health/live", 405),
     ("GET", "/nothing", 404), ("GET", "/predict/", 404), ("GET", "/%2e%2e/etc/passwd", 404), ("POST", "/", 405),
     ("GET", "/model/plots/..%2fmanifest.json", 404), ("GET", "/static/../app.py", 404)],
)  # fmt: skip
def test_other_ways_in_are_closed(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    checked(response)


def test_head_is_answered_wherever_get_is(client):
    document = client.get("/openapi.json").json()["paths"]
    open_ones = [path for path, operations in document.items() if "get" in operations and "{" not in path]
    assert {"/health/live", "/metrics", "/ping", "/v2"} <= set(open_ones)
    for path in (*open_ones, "/", "/docs", "/openapi.json", "/model/card", "/static/page.js", "/v2/models/census"):
        whole, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (200, b""), path
        same = ("content-type", "content-length") if path != "/metrics" else ("content-type",)
        assert [head.headers[name] for name in same] == [whole.headers[name] for name in same]
    assert client.head("/predict").headers["allow"] == client.put("/predict").headers["allow"] == "POST"
    for path in ("/model", "/health/live", "/openapi.json"):
        assert client.delete(path).headers["allow"] == "GET, HEAD"
    assert not [path for path, operations in document.items() if "head" in operations]


def test_a_body_over_the_limit_is_refused(client):
    response = post(client, b" " * (1024 * 1024 + 1))
    assert response.status_code == 413
    assert "1048576 bytes" in checked(response)["message"]


def test_a_compressed_body_is_refused(client):
    response = post(client, b"\x1f\x8b", **{"content-encoding": "gzip"})
    assert response.status_code == 415
    checked(response)


def test_names_with_hyphens_are_the_models_own(client):
    document = client.get("/openapi.json").json()
    assert "education-num" in document["components"]["schemas"]["Row"]["properties"]
