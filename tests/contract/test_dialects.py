"The same rows and the same answers in every protocol; each one's errors in its own shape"

import json
import math
import struct
from collections import Counter
from contextlib import ExitStack

import jsonschema
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from mlserve.drain import Drain
from mlserve.metrics import Metrics
from mlserve.service import create
from mlserve.settings import load_settings
from mlserve.tensors import DATATYPES, BadTensor, Tensor, as_bytes, from_bytes, from_json, read_inputs, write_outputs

TYPES = {"boolean": "BOOL", "integer": "INT64", "number": "FP64"}


@pytest.fixture(scope="module")
def clients(projects):
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(TestClient(create(load_settings(folder, environ={}), Drain(), Metrics())))
            for name, folder in projects.items()
        }


@pytest.fixture(params=("census", "diabetes", "wine"))
def client(request, clients):
    return clients[request.param]


@pytest.fixture
def census(clients):
    return clients["census"]


def model_of(client):
    return client.get("/model").json()


def rows_of(model):
    return [model["example"]] * 3


def kind_of(schema):
    return schema["x-field"]["kind"]


def inputs_of(model, rows):
    kinds = {name: kind_of(schema) for name, schema in model["inputs"]["properties"].items()}
    return [
        {"name": n, "datatype": TYPES.get(k, "BYTES"), "shape": [len(rows), 1], "data": [row[n] for row in rows]}
        for n, k in kinds.items()
    ]


def infer(client, inputs, **more):
    name = model_of(client)["name"]
    return client.post(f"/v2/models/{name}/infer", json={"inputs": inputs, **more})


def told(response):
    assert response.status_code == 200, response.text
    return {output["name"]: output["data"] for output in response.json()["outputs"]}


# The description


def examples_of(content):
    "(name, media type, body) of each example"
    for kind, told in content.items():
        for name, case in told.get("examples", {}).items():
            yield name, kind, case["value"]
        if "example" in told:
            yield "example", kind, told["example"]


def test_each_example_of_the_description_fits_its_schema_and_is_answered(client):
    model = model_of(client)
    document = client.get("/openapi.json").json()
    known = {"components": document["components"]}
    posted = Counter()
    for path, operations in document["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for name, kind, body in examples_of(content):
            if kind == "application/json":
                jsonschema.Draft202012Validator({**content[kind]["schema"], **known}).validate(body)
            sent = body if isinstance(body, str) else json.dumps(body)
            url = path.replace("{model}", model["name"])
            answer = client.post(url, content=sent, headers={"content-type": kind})
            assert answer.status_code == 200, (path, name, answer.text)
            told = operations["post"]["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.Draft202012Validator({**told, **known}).validate(answer.json())
            posted[path] += 1
    v2 = 3 if {kind_of(schema) for schema in model["inputs"]["properties"].values()} <= {"integer", "number"} else 2
    wanted = {
        "/predict": 3,
        "/feedback": 2,
        "/v2/models/{model}/infer": v2,
        "/invocations": 5,
        "/v1/models/{model}:predict": 2,
    }
    assert posted == wanted


def test_the_description_says_what_each_get_answers_with(client):
    document = client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {"200", "4XX", "503"} <= set(operation["responses"]), path
        if "get" in operations:
            answer = client.get(path.replace("{model}", model_of(client)["name"]))
            (stated,) = operations["get"]["responses"]["200"]["content"]
            assert answer.headers["content-type"].partition(";")[0] == stated, path
            assert stated != "application/json" or answer.json()
    for told in (
        document["paths"]["/v2/models/{model}/infer"]["post"]["requestBody"]["content"],
        (document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]["200"]["content"]),
    ):
        assert "Inference-Header-Content-Length" in told["application/octet-stream"]["schema"]["description"]


def test_the_description_asks_for_the_feedback_that_is_taken(client):
    output = model_of(client)
    content = client.get("/openapi.json").json()["paths"]["/feedback"]["post"]["requestBody"]["content"]
    schema = content["application/json"]["schema"]["anyOf"][0]
    key = "label" if output["classes"] else "value"
    assert schema["required"] == ["id", key] and set(schema["properties"]) == {"id", key, "at"}
    assert schema["properties"][key].get("enum", []) == output["classes"]


def test_an_empty_text_of_arrow_is_not_described_as_null(client):
    content = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert "an empty cell is null" in content["text/csv"]["schema"]["description"]
    assert "an empty cell" not in content["application/vnd.apache.arrow.stream"]["schema"]["description"]


def test_the_description_names_the_model_where_a_path_does(client):
    document = client.get("/openapi.json").json()
    named = [
        (path, given["example"])
        for path, operations in document["paths"].items()
        for operation in operations.values()
        for given in operation.get("parameters", ())
        if given["name"] == "model"
    ]
    assert len(named) >= 6 and {name for _, name in named} == {model_of(client)["name"]}


# The same answer


def test_every_dialect_gives_the_answer_of_predict(client):
    model = model_of(client)
    rows, name = rows_of(model), model["name"]
    answers = client.post("/predict", json=rows).json()
    values = [a.get("label", a.get("value")) for a in answers]
    shares = [list(a["probabilities"].values()) for a in answers] if "probabilities" in answers[0] else None
    tensors = told(infer(client, inputs_of(model, rows)))
    assert tensors["predict"] == values and len(set(tensors["id"])) == 3
    assert tensors.get("predict_proba") == (shares and [p for row in shares for p in row])
    names = list(rows[0])
    shapes = [
        {"dataframe_split": {"columns": names, "index": [7, 8, 9], "data": [list(row.values()) for row in rows]}},
        {"dataframe_records": rows},
        {"instances": rows},
        {"instances": [list(row.values()) for row in rows]},
        {"inputs": {n: [row[n] for row in rows] for n in names}},
    ]
    said = [client.post("/invocations", json=shape) for shape in shapes]
    said.append(client.post(f"/v1/models/{name}:predict", json={"instances": rows}))
    lines = [names, *(["" if v is None else str(v) for v in row.values()] for row in rows)]
    csv = "\n".join(",".join(line) for line in lines)
    said.append(client.post("/invocations", content=csv, headers={"content-type": "text/csv; charset=utf-8"}))
    for response in said:
        assert response.status_code == 200, response.text
        assert response.json()["predictions"] == values and response.json().get("probabilities") == shares
        assert response.headers["x-model-version"] == f"{name}@{model['version']}"


def test_a_table_of_numbers_may_come_as_one_tensor(clients):
    client = clients["wine"]
    model = model_of(client)
    rows = rows_of(model)
    flat = [float(v) for row in rows for v in row.values()]
    one = [{"name": "x", "datatype": "FP64", "shape": [3, len(rows[0])], "data": flat}]
    assert told(infer(client, one))["predict"] == told(infer(client, inputs_of(model, rows)))["predict"]


def test_metadata_names_the_real_inputs_and_outputs(client):
    model = model_of(client)
    about = client.get(f"/v2/models/{model['name']}").json()
    assert [i["name"] for i in about["inputs"]] == list(model["example"])
    versioned = f"/v2/models/{model['name']}/versions/{model['version']}"
    assert client.get(versioned).json() == about
    assert client.get(versioned + "/ready").json() == {"name": model["name"], "ready": True}
    response = client.post(versioned + "/infer", json={"id": "a", "inputs": inputs_of(model, rows_of(model))}).json()
    assert response["id"] == "a" and response["model_version"] == model["version"]
    made = [(o["name"], o["datatype"], [-1, *o["shape"][1:]]) for o in response["outputs"]]
    assert made == [(o["name"], o["datatype"], o["shape"]) for o in about["outputs"]]


def test_health_of_every_dialect(census):
    dialects = {
        "/v2": ["", "/", "/health/live", "/health/ready", "/models"],
        "": ["/v1/models", "/ping", "/health", "/version"],
    }
    for path in (root + path for root, paths in dialects.items() for path in paths):
        assert census.get(path).status_code == 200, path
    assert census.get("/v1/models/census").json() == {"name": "census", "ready": True}
    (one,) = census.post("/v2/repository/index").json()
    assert (one["name"], one["state"]) == ("census", "READY")


def test_bytes_behind_the_json_are_read_and_written(census):
    model = model_of(census)
    rows = [{**row, "workclass": row["workclass"] or "Private"} for row in rows_of(model)]
    tensors = [from_json(given) for given in inputs_of(model, rows)]
    inputs, data = write_outputs(tensors, frozenset(t.name for t in tensors))
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "content-type": "application/octet-stream"}
    response = census.post("/v2/models/census/infer", content=head + data, headers=headers)
    assert response.status_code == 200, response.text
    length = int(response.headers["inference-header-content-length"])
    outputs = read_inputs(json.loads(response.content[:length])["outputs"], response.content[length:])
    plain = told(infer(census, inputs_of(model, rows)))
    assert {o.name: list(o.values) for o in outputs if o.name != "id"} == {k: v for k, v in plain.items() if k != "id"}


def test_a_model_is_read_anew_and_never_unloaded(census):
    assert census.post("/v2/repository/models/census/load", json={}).status_code == 200
    for path, status in (("census/unload", 409), ("income/unload", 404), ("income/load", 404)):
        refused = census.post(f"/v2/repository/models/{path}")
        assert refused.status_code == status and list(refused.json()) == ["error"]


# Mistakes


def changed(inputs, **change):
    return [{**inputs[0], **change}, *inputs[1:]]


WRONG = {
    "a value that does not fit": lambda i: changed(i, datatype="BYTES", data=["40"] * 3),
    "a fraction": lambda i: changed(i, datatype="FP64", data=[40.5, 40, 40]),
    "a boolean": lambda i: changed(i, datatype="BOOL", data=[True] * 3),
    "a value that is not its type": lambda i: changed(i, data=[40, "40", 40]),
    "too big for its type": lambda i: changed(i, datatype="INT8", data=[40, 400, 40]),
    "too big for its floats": lambda i: changed(i, datatype="FP32", data=[40, 1e39, 40]),
    "too big for small floats": lambda i: changed(i, datatype="FP16", data=[40, -65520, 40]),
    "parameters that are none": lambda i: changed(i, parameters=5),
    "a list of parameters": lambda i: changed(i, parameters=[]),
    "a shape that lies": lambda i: changed(i, shape=[4]),
    "an empty shape": lambda i: changed(i, shape=[]),
    "a negative shape": lambda i: changed(i, shape=[-3]),
    "a huge shape": lambda i: changed(i, shape=[2**62, 2**62]),
    "a true shape": lambda i: changed(i, shape=[True, 3]),
    "too wide": lambda i: changed(i, shape=[1, 3]),
    "nine dimensions": lambda i: changed(i, shape=[3] + [1] * 8),
    "nested askew": lambda i: changed(i, data=[[40], [40, 40]]),
    "no data": lambda i: changed(i, data=None),
    "another type": lambda i: changed(i, datatype="FP8"),
    "an unknown name": lambda i: changed(i, name="Age"),
    "a name that is none": lambda i: changed(i, name=3),
    "a name twice": lambda i: [*i, i[0]],
    "a column missing": lambda i: i[1:],
    "a column too short": lambda i: changed(i, shape=[2], data=[40, 41]),
    "no inputs": lambda i: [],
    "inputs that are none": lambda i: {"age": 40},
    "an input that is none": lambda i: [None],
    "bytes that do not come": lambda i: [{"name": "age", "datatype": "INT64", "shape": [3],
                                          "parameters": {"binary_data_size": 24}}, *i[1:]],
    "bytes and data": lambda i: changed(i, parameters={"binary_data_size": 0}),
    "a size that is none": lambda i: changed(i, parameters={"binary_data_size": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_tensor_is_400_in_one_sentence(census, case):
    model = model_of(census)
    refused = infer(census, WRONG[case](inputs_of(model, rows_of(model))))
    assert refused.status_code == 400 and list(refused.json()) == ["error"]
    assert refused.json()["error"] and len(refused.content) < 1000


@pytest.mark.parametrize(
    "more",
    [{"outputs": [{"name": "logits"}]}, {"outputs": "predict"}, {"outputs": [3]}, {"outputs": {}}, {"outputs": 0},
     {"parameters": []}, {"id": 3}, {"parameters": 3},
     {"parameters": {"binary_data_output": "yes"}}, {"outputs": [{"name": "predict", "parameters": {"binary_data": 1}}]}],
)  # fmt: skip
def test_a_wrong_wish_is_400(census, more):
    model = model_of(census)
    refused = infer(census, inputs_of(model, rows_of(model)), **more)
    assert refused.status_code == 400 and list(refused.json()) == ["error"]


@pytest.mark.parametrize("datatype", ["FP16", "FP32"])
def test_json_takes_the_numbers_that_bytes_can_hold(datatype):
    def taken(value):
        try:
            return bool(from_json({"name": "x", "datatype": datatype, "shape": [1], "data": [value]}))
        except BadTensor:
            return False

    def held(value):
        try:
            return bool(as_bytes(Tensor("x", datatype, (1,), [value])))
        except (OverflowError, struct.error):
            return False

    largest = {"FP16": 65_504.0, "FP32": (2 - 2.0**-23) * 2.0**127}[datatype]
    for value in (largest, math.nextafter(largest, math.inf), largest * 1.001, largest * 2, int(largest), 10**400):
        assert taken(value) == held(value) and taken(-value) == held(-value)
    edge = {"FP16": 65_520.0, "FP32": 2.0**128 - 2.0**103}[datatype]
    assert not taken(edge) and not held(edge) and taken(math.nextafter(edge, 0)) and held(math.nextafter(edge, 0))


@pytest.mark.parametrize("path", ["/invocations", "/v1/models/census:predict"])
def test_a_type_that_is_refused_is_not_advised(census, path):
    def ask(type_):
        return census.post(path, content=b"{}", headers={"content-type": type_})

    refused = ask("text/plain")
    assert refused.status_code == 415
    for type_ in ("application/json", "text/csv", "application/vnd.apache.arrow.stream"):
        assert (ask(type_).status_code == 415) != (type_ in refused.text), type_
    assert "the rows" in refused.text and "the row " not in refused.text


def test_a_method_that_does_not_predict_is_told_which_does(census):
    for method in ("GET", "HEAD", "PUT"):
        refused = census.request(method, "/v1/models/census:predict")
        assert refused.status_code == 405 and refused.headers["allow"] == "POST"
    assert census.get("/v1/models/census").json()["ready"]
    assert "get" not in census.get("/openapi.json").json()["paths"]["/v1/models/{model}:predict"]


def test_only_what_is_asked_for_comes(census):
    model = model_of(census)
    asked = infer(census, inputs_of(model, rows_of(model)), outputs=[{"name": "predict_proba"}])
    assert list(told(asked)) == ["predict_proba"]


HOSTILE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"NaN",
    b'{"inputs": NaN}',
    b"\xff",
    b"[" * 50_000,
    b'{"a": 1, "a": 2}',
    b'"\\ud800"',
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    ("path", "keys"),
    [("/v2/models/census/infer", {"error"}), ("/invocations", {"error_code", "message"}),
     ("/v1/models/census:predict", {"error"})],
)  # fmt: skip
def test_a_hostile_body_is_refused_in_the_shape_of_its_protocol(census, path, keys, body):
    refused = census.post(path, content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 400 and set(refused.json()) == keys
    assert "Traceback" not in refused.text and len(refused.content) < 1000


@pytest.mark.parametrize(
    "body",
    [{"rows": []}, {"instances": [], "inputs": []}, {"dataframe_split": []}, {"dataframe_split": {"columns": [1], "data": []}},
     {"dataframe_split": {"columns": ["age"], "data": [[1, 2]]}}, {"dataframe_split": {"columns": ["age", "age"], "data": []}},
     {"dataframe_records": {}}, {"dataframe_records": [3]}, {"instances": [[1], {}]}, {"inputs": 3}, {"inputs": {"age": 3}},
     {"instances": [], "params": {"temperature": 1}}, {"instances": [], "signature_name": "x"}],
)  # fmt: skip
def test_a_wrong_invocation_is_a_bad_request(census, body):
    refused = census.post("/invocations", json=body)
    assert refused.status_code == 400 and refused.json()["error_code"] == "BAD_REQUEST"


def test_other_types_versions_and_names_are_refused(census):
    for path in ("/invocations", "/v2/models/census/infer", "/v1/models/census:predict"):
        assert census.post(path, content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    for path in ("/v2/models/income/infer", "/v2/models/census/versions/0/infer", "/v1/models/income:predict"):
        assert census.post(path, json={}).status_code == 404
    assert census.get("/v2/models/census/versions/0").json().keys() == {"error"}
    for length in ("x", "-1", "99999", "9" * 40):
        headers = {"inference-header-content-length": length}
        assert census.post("/v2/models/census/infer", content=b"{}", headers=headers).status_code == 400


def test_each_dialect_is_counted_by_its_route(census):
    model = model_of(census)
    infer(census, inputs_of(model, rows_of(model)))
    told = census.get("/metrics").text
    assert 'mlserve_requests_total{method="POST",route="/v2/models/{model}/infer",status="200"}' in told


# Tensors as bytes

LIMITS = {"INT8": 2**7, "INT16": 2**15, "INT32": 2**31, "INT64": 2**63}
VALUES = {
    "BOOL": st.booleans(),
    "BYTES": st.text(),
    **{name: st.integers(-size, size - 1) for name, size in LIMITS.items()},
    **{"U" + name: st.integers(0, 2 * size - 1) for name, size in LIMITS.items()},
    **{name: st.floats(width=width, allow_nan=False) for name, width in (("FP16", 16), ("FP32", 32), ("FP64", 64))},
}


@given(st.data())
def test_bytes_come_back_as_they_were(data):
    assert VALUES.keys() == DATATYPES.keys()
    datatype = data.draw(st.sampled_from(sorted(DATATYPES)))
    values = data.draw(st.lists(VALUES[datatype], max_size=20))
    tensor = Tensor("x", datatype, (len(values),), values)
    head = {"name": "x", "datatype": datatype, "shape": [len(values)]}
    assert list(from_bytes(head, as_bytes(tensor)).values) == values
    finite = [v for v in values if not isinstance(v, float) or abs(v) != float("inf")]
    assert from_json({**head, "shape": [len(finite)], "data": finite}).values == finite


@given(st.binary(max_size=60), st.sampled_from(sorted(DATATYPES)), st.integers(0, 10))
def test_whatever_bytes_come_they_are_read_or_refused(data, datatype, count):
    try:
        read = from_bytes({"name": "x", "datatype": datatype, "shape": [count]}, data)
    except BadTensor:
        return
    assert len(read.values) == count


def test_texts_of_any_length_are_bounded_by_what_came():
    with pytest.raises(BadTensor, match="end within a text"):
        from_bytes({"name": "x", "datatype": "BYTES", "shape": [1]}, struct.pack("<I", 2**32 - 1) + b"x")
