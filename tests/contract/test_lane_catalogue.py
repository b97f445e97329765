"""Ordinary and odd requests, each asked through the lane and with the lane off: both must say the same.

Status, headers and body are compared byte by byte, the answer's id apart, and so is what was counted of the request.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

from mlserve.contract import Contract, Field, Output
from tests.contract.test_http import HOSTILE
from tests.served import Served, bundle_of

FIELDS = (
    Field("age", "integer", low=0, high=120, outside="refuse", example=40),
    Field("hours per-week", "integer", low=1, high=99, example=30),
    Field("any", "integer", low=1, high=9, outside="accept", example=5),
    Field("gain", "number", nullable=True, low=0.0, high=1e5, example=0.5),
    Field("rate", "number", low=-1.0, high=1.0, outside="refuse", example=0.25),
    Field("job", "category", levels=("", "baker", "né", 'the "cook"'), outside="refuse", example="baker"),
    Field("region", "category", nullable=True, levels=("east", "west"), example="east"),
    Field("free", "category", levels=("a", "b"), outside="accept", example="a"),
    Field("note", "text", nullable=True, example="fine"),
    Field("member", "boolean", example=True),
)
ROW = {f.name: f.example for f in FIELDS}
CLASSES = {"binary": ("no", "yes"), "multiclass": ("<b>", "né", 'the "third"'), "regression": ()}
SENT = (b"content-type", b"application/json")


def learned(task):
    "Rows of every kind with targets"
    rng, count = np.random.default_rng(3), 300
    frame = pd.DataFrame(
        {
            "age": rng.integers(0, 121, count),
            "hours per-week": rng.integers(1, 100, count),
            "any": rng.integers(1, 10, count),
            "gain": np.where(rng.random(count) < 0.2, np.nan, rng.random(count) * 1e5),
            "rate": rng.uniform(-1, 1, count),
            "job": rng.choice(FIELDS[5].levels, count),
            "region": rng.choice(["east", "west"], count),
            "free": rng.choice(["a", "b"], count),
            "note": "fine",
            "member": rng.random(count) < 0.5,
        }
    )
    signal = frame.rate + frame.age / 120 + frame.member - (frame.job == "baker")
    classes = np.array(CLASSES[task], object)
    return frame, signal if task == "regression" else classes[np.digitize(signal, [0.8, 1.4][: len(classes) - 1])]


def make(folder, task, estimator, fields=FIELDS, numbers=("age", "hours per-week", "any", "rate", "member")):
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = make_column_transformer((encoder, ["job", "region", "free"]), ("passthrough", list(numbers)))
    frame, target = learned(task)
    pipeline = make_pipeline(columns, estimator).fit(frame, target)
    contract = Contract(fields, Output(task, "target", CLASSES[task], next(iter(CLASSES[task][1:]), None)))
    row = {f.name: f.example for f in fields}
    return Served(bundle_of(folder, pipeline, contract, [row, {**row, "age": 3}]))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    boosting = HistGradientBoostingClassifier(max_iter=5, random_state=0)
    every = ("age", "hours per-week", "any", "gain", "rate", "member")
    made = make(tmp_path_factory.mktemp("lane") / "odd", "multiclass", boosting, numbers=every)
    assert made.model.speed
    return made


def without_id(body):
    return re.sub(rb"\b[0-9a-f]{32}\b", b"", body)


def both(served, body, headers=(SENT,), **more):
    "The answer, if the two ways agree on it; and whether the lane gave it"
    before = served.handed_on
    status, said, content = served.ask(body, headers, **more)
    counted = served.seen.requests[-1]
    app = served.ask(body, headers, lane=False, **more)
    ids = re.findall(rb"\b[0-9a-f]{32}\b", content)
    assert len(ids) == len(set(ids))
    assert (status, said, without_id(content)) == (app[0], app[1], without_id(app[2]))
    assert counted == served.seen.requests[-1]
    assert status < 500
    return status, content, served.handed_on == before


# Bodies


VALUES = (
    # whole numbers, in all ways to write them
    *(b"0", b"40", b"-0", b"-1", b"121", b"120", b"99", b"100", b"9007199254740991", b"9007199254740992"),
    *(b"9007199254740993", b"-9007199254740993", b"18446744073709551616", b"1" + b"0" * 400, b"9" * 4301),
    *(b"40.0", b"4e1", b"4E+1", b"400e-1", b"-0.0", b"40.5", b"1e400", b"-1e400", b"5e-324", b"1e-400"),
    *(b"0.1", b"0.30000000000000004", b"1.7976931348623157e308", b"100000.0", b"100000.00000000001"),
    # not quite numbers
    *(b"040", b"+40", b"40.", b".5", b"0x28", b"4_0", b"1e", b"-", b"NaN", b"-NaN", b"Infinity", b"-Infinity"),
    # text
    *(b'""', b'"40"', b'"baker"', b'"Baker"', b'"n\xc3\xa9"', b'"n\\u00e9"', b'"ne\xcc\x81"', b'"the \\"cook\\""'),
    *(b'"east"', b'"north"', b'"a"', b'"z"', b'"\xf0\x9f\x98\x80"', b'"\\ud83d\\ude00"', b'"\\ud83d"', b'"\\u0000"'),
    *(b'"\x00"', b'"\t"', b'"\\t"', b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\\x41"', b"'a'", b'"a', b'"2024-05-17"'),
    *(b'" a"', b'"' + b"x" * 5000 + b'"', b'"null"', b'"{}"', b'"a\\/b"'),
    # the rest
    *(b"true", b"false", b"True", b"null", b"None", b"nul", b"{}", b"[]", b"[40]", b'{"a": 1}', b"", b" ", b"undefined"),
)  # fmt: skip


def with_value(name, value):
    "An ordinary row with one value as it is written here"
    return json.dumps({**ROW, name: "@"}, ensure_ascii=False).encode().replace(b'"@"', value)


def shapes():
    "Whole bodies: name -> bytes"
    compact, names = json.dumps(ROW, separators=(",", ":")).encode(), list(ROW)
    rows = {
        "spaces": json.dumps(ROW, indent=3).encode(),
        "compact": compact,
        "tabs": json.dumps(ROW, indent="\t").encode(),
    }
    rows |= {"around": b" \r\n\t" + compact + b"\n ", "vertical tab": b"\x0b" + compact, "nbsp": b"\xc2\xa0" + compact}
    rows |= {
        "BOM": b"\xef\xbb\xbf" + compact,
        "NUL behind": compact + b"\0",
        "two": compact * 2,
        "comma": compact + b",",
    }
    rows |= {"UTF-16": compact.decode().encode("utf-16"), "UTF-32": compact.decode().encode("utf-32")}
    rows |= {
        "Latin-1": with_value("job", '"né"'.encode("latin-1")),
        "escaped key": compact.replace(b'"age"', b'"\\u0061ge"'),
    }
    rows |= {f"cut at {at}": compact[:at] for at in range(0, len(compact), 7)}
    rows |= {f"without {n}": json.dumps({k: v for k, v in ROW.items() if k != n}).encode() for n in names}
    rows |= {f"twice {n}": compact[:-1] + b"," + json.dumps({n: ROW[n]}).encode()[1:] for n in names}
    rows |= {
        f"more {n!r}": json.dumps({**ROW, n: 1}).encode()
        for n in ("", "Age", "age ", "é", "__proto__", "id", "x" * 300)
    }
    rows |= {"reversed": json.dumps(dict(reversed(ROW.items()))).encode(), "in a list": b"[" + compact + b"]"}
    rows |= {
        "two in a list": b"[" + compact + b"," + compact + b"]",
        "in two lists": b"[[" + compact + b"]]",
        "no rows": b"[]",
    }
    rows |= {
        "columns": json.dumps({"columns": {n: [v, v] for n, v in ROW.items()}}).encode(),
        "no columns": b'{"columns": {}}',
    }
    rows |= {"uneven": json.dumps({"columns": {n: [v] * (1 + len(n) % 2) for n, v in ROW.items()}}).encode()}
    rows |= {"no list": json.dumps({"columns": ROW}).encode(), "columns is a list": b'{"columns": [1]}'}
    rows |= {"and columns": json.dumps({**ROW, "columns": {}}).encode(), "commented": compact + b"// a row"}
    return rows | {f"hostile: {name}": body for name, (body, _) in HOSTILE.items() if len(body) < 100_000}


BODIES = {f"{f.name} = {v[:40]!r} ({len(v)})": with_value(f.name, v) for f in FIELDS for v in VALUES} | shapes()


def test_the_catalogue_is_large():
    assert len(BODIES) > 900 and len(set(BODIES.values())) > 850


@pytest.mark.parametrize("name", [f.name for f in FIELDS] + ["shapes"])
def test_lane_and_app_agree_on_every_body(served, name):
    wanted = shapes() if name == "shapes" else {k: b for k, b in BODIES.items() if k.startswith(f"{name} = ")}
    statuses = set()
    for body in wanted.values():
        status, _, fast = both(served, body)
        statuses.add((status, fast))
    assert {(200, True), (400, False), (422, False)} <= statuses, "the lane answers good rows, and good rows only"
    assert not {(400, True), (422, True)} & statuses


def test_what_is_ordinary_takes_the_lane(served):
    for changed in (
        {},
        {"gain": None},
        {"job": "né"},
        {"note": "x" * 500},
        {"any": 10**6},
        {"free": "z"},
        {"rate": -0.0},
    ):
        assert both(served, json.dumps({**ROW, **changed}, ensure_ascii=False).encode())[::2] == (200, True)
    for changed in ({"hours per-week": 100}, {"region": "north"}, {"gain": 2e5}):  # these are answered with a warning
        status, content, fast = both(served, json.dumps({**ROW, **changed}).encode())
        assert (status, fast) == (200, False) and json.loads(content)["warnings"][0]["field"] == next(iter(changed))


# Headers


TYPES = (
    *(b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b"application/json;charset=UTF-8"),
    *(b'application/json; charset="utf-8"', b"application/json; charset=latin-1", b"application/json; charset=utf-16"),
    *(b"application/json;", b" application/json", b"application/json ", b"application/json; x=y", b"application/json5"),
    *(b"application/vnd.api+json", b"application/ld+json", b"text/json", b"text/plain", b"text/csv"),
    *(b"text/html", b"application/xml", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded"),
    *(b"application/vnd.apache.arrow.stream", b"application/octet-stream", b"", b"json", b"*/*", b"\xff\xfe", b"a/b, c/d"),
)  # fmt: skip
ACCEPTS = (
    *(b"*/*", b"application/json", b"text/csv", b"text/*", b"text/html", b"application/*", b"", b"*", b"application/json;q=0"),
    *(b"text/csv;q=0.4, application/json;q=0.5", b"text/csv, application/json", b"application/json, text/plain, */*"),
    *(b"text/csv;q=x", b"text/csv;q=2", b";;;,,,", b"application/vnd.apache.arrow.stream", b"\xff", b"TEXT/CSV", b"a" * 5000),
)  # fmt: skip


@pytest.mark.parametrize(
    "body", [b"", b"{", json.dumps(ROW).encode(), b'{"age": 1}'], ids=["empty", "half", "row", "wrong"]
)
def test_lane_and_app_agree_on_every_content_type(served, body):
    for type_ in TYPES:
        both(served, body, [(b"content-type", type_)])
        for other in (b"application/json", b"text/plain"):
            both(served, body, [(b"content-type", type_), (b"content-type", other)])
    both(served, body, [])


def test_lane_and_app_agree_on_what_is_wanted_back(served):
    body = json.dumps(ROW).encode()
    for accept in ACCEPTS:
        both(served, body, [SENT, (b"accept", accept)])
        both(served, body, [SENT, (b"accept", accept), (b"accept", b"text/csv")])
    assert both(served, body, [SENT, (b"accept", b"*/*")])[2]
    status, content, fast = both(served, body, [SENT, (b"accept", b"text/csv")])
    assert (status, fast) == (200, False) and content.count(b"\r\n") == 2


def test_other_headers_change_nothing(served):
    others = [
        (b"user-agent", b"curl"),
        (b"cookie", b"a=b"),
        (b"origin", b"https://example.org"),
        (b"x-request-id", b"7"),
    ]
    others += [
        (b"accept-encoding", b"gzip"),
        (b"accept-charset", b"latin-1"),
        (b"x-http-method-override", b"GET"),
        (b"x", b"\xff"),
    ]
    assert both(served, json.dumps(ROW).encode(), [*others, SENT])[::2] == (200, True)


@pytest.mark.parametrize("pieces", [[0], [1], [40], [0, 0, 0], [1] * 30, [10_000]], ids=str)
@pytest.mark.parametrize("body", [json.dumps(ROW).encode(), b"{", b"[]", b""], ids=["row", "half", "list", "empty"])
def test_a_body_may_come_in_pieces(served, body, pieces):
    both(served, body, pieces=pieces)


def test_other_routes_are_the_apps(served):
    routes = [(method, "/predict") for method in ("GET", "PUT", "HEAD", "OPTIONS", "PATCH", "post")]
    routes += [("POST", path) for path in ("/predict/", "//predict", "/Predict", "/model", "/predict%20", "/")]
    for method, path in [*routes, ("GET", "/model"), ("GET", "/health/ready")]:
        assert not both(served, json.dumps(ROW).encode(), method=method, path=path)[2]


# Other models


def test_a_regression_and_a_model_without_probabilities(tmp_path):
    for task, estimator in (("regression", LinearRegression()), ("binary", LinearSVC()), ("multiclass", LinearSVC())):
        served = make(tmp_path / f"{task} {type(estimator).__name__}", task, estimator)
        answers = [both(served, json.dumps({**ROW, "age": age}).encode()) for age in (0, 40, 120, 40.0, "40")]
        assert [a[::2] for a in answers] == [(200, True)] * 3 + [(200, False), (422, False)]
        assert "probabilities" not in json.loads(answers[0][1])
        assert both(served, json.dumps(ROW).encode(), [SENT, (b"accept", b"text/csv")])[0] == 200


def test_an_answer_that_no_json_can_hold_is_refused_by_both(tmp_path):
    frame = pd.DataFrame({"any": [0.0, 1.0, 2.0]})
    contract = Contract((Field("any", "number", outside="accept", example=5.0),), Output("regression", "target"))
    for line in (LinearRegression(), Ridge(alpha=0)):
        pipeline = make_pipeline(make_column_transformer(("passthrough", ["any"])), line).fit(frame, [0, 1000, 2000])
        served = Served(bundle_of(tmp_path / type(line).__name__, pipeline, contract, [{"any": 1.0}]))
        assert both(served, b'{"any": 5}')[::2] == (200, True)
        for huge in (b'{"any": 1e307}', b'{"any": -1e307}', b'[{"any": 1}, {"any": 1e307}]'):
            status, content, fast = both(served, huge)
            assert (status, fast, json.loads(content)["error"]) == (422, False, "cannot_score")
    assert json.loads(content)["fields"][0]["row"] == 1


def test_a_contract_with_a_date_is_left_to_the_app(tmp_path):
    dated = (*FIELDS, Field("since", "date", nullable=True, example="2024-05-17"))
    frame, target = learned("regression")
    frame["since"] = pd.Timestamp("2024-05-17")
    pipeline = make_pipeline(make_column_transformer(("passthrough", ["age"])), LinearRegression()).fit(frame, target)
    row = {f.name: f.example for f in dated}
    served = Served(bundle_of(tmp_path / "odd", pipeline, Contract(dated, Output("regression", "target")), [row]))
    assert both(served, json.dumps(row).encode())[::2] == (200, False)
    assert both(served, json.dumps({**row, "since": "yesterday"}).encode())[::2] == (422, False)


def test_a_new_model_answers_in_the_lane_at_once(served, tmp_path):
    other = make(tmp_path / "odd", "regression", LinearRegression())
    before, body = served.service.model, json.dumps(ROW).encode()
    try:
        served.service.model = other.model
        status, content, fast = both(served, body)
        assert (status, fast) == (200, True) and "value" in json.loads(content)
    finally:
        served.service.model = before
    assert "label" in json.loads(both(served, body)[1])


# Bodies nobody thought of


odd_values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-5, 130), st.floats(), st.floats(-2, 2),
    st.text(max_size=8), st.sampled_from(["baker", "né", "", "east", "a"]), st.lists(st.integers(), max_size=2),
)  # fmt: skip
changes = st.dictionaries(st.one_of(st.sampled_from(list(ROW)), st.text(max_size=5)), odd_values, max_size=3)
styles = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 2])})


@given(changes, st.lists(st.sampled_from(list(ROW)), max_size=2), styles)
@example({}, [], {"ensure_ascii": True, "indent": None})
@example({"note": "\ud800"}, [], {"ensure_ascii": True, "indent": None})
def test_lane_and_app_agree_on_any_row(served, changed, left_out, style):
    row = {k: v for k, v in {**ROW, **changed}.items() if k not in left_out}
    both(served, json.dumps(row, **style).encode("utf-8", "surrogatepass"))


@given(st.integers(0, len(json.dumps(ROW)) - 1), st.integers(0, 3), st.binary(max_size=3))
def test_lane_and_app_agree_on_any_damage(served, at, gone, put):
    body = json.dumps(ROW).encode()
    both(served, body[:at] + put + body[at + gone :])
