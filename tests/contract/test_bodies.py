"The same rows as JSON, CSV and Arrow: the same answers, and the same words about what is wrong"

import csv
import io
import json
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import httpx
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve import bodies
from mlserve.bodies import ARROW, CSV, JSON, answer_format, body_format, formats, read_body
from mlserve.bundle import find_bundle, read_bundle
from mlserve.contract import Contract, Field, Output, check_rows, example
from mlserve.errors import InvalidRows, MlserveError
from mlserve.score import load_model
from tests.conftest import ROOT, environment
from tests.contract.test_http import checked

FIELDS = (
    Field("age", "integer", low=0, high=120),
    Field("rate", "number", nullable=True),
    Field("job", "category", nullable=True, levels=("a", "b"), outside="refuse"),
    Field("note", "text", nullable=True),
    Field("member", "boolean"),
    Field("since", "date", nullable=True),
)
CONTRACT = Contract(FIELDS, Output("regression", "y"))
ROWS = [
    {"age": 40, "rate": 0.5, "job": "a", "note": 'x, "y"\nz', "member": True, "since": "2024-05-17"},
    {"age": 3, "rate": None, "job": None, "note": None, "member": False, "since": "2024-05-17T08:30:00"},
]


def columns(rows):
    return {name: [row.get(name) for row in rows] for name in rows[0]}


def stream(data, schema=None, **options):
    "Columns as an Arrow IPC stream"
    table = data if isinstance(data, pa.Table) else pa.table(data, schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def as_csv(rows):
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def rows_in(format_, body):
    rows, single = read_body(CONTRACT, format_, body)
    return check_rows(CONTRACT, rows, single=single).rows


def every_way(rows):
    yield JSON, json.dumps(rows).encode()
    yield JSON, json.dumps({"columns": columns(rows)}).encode()
    yield CSV, as_csv(rows)
    yield ARROW, stream(columns(rows))


def test_the_same_rows_come_out_of_every_format():
    for format_, body in every_way(ROWS):
        assert rows_in(format_, body) == ROWS, format_


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
row = st.fixed_dictionaries(
    {
        "age": st.integers(-(2**53), 2**53),
        "rate": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "job": st.sampled_from([None, "a", "b"]),
        "note": st.none() | texts,
        "member": st.booleans(),
        "since": st.none() | st.dates().map(date.isoformat),
    }
)


@given(st.lists(row, min_size=1, max_size=4))
def test_any_rows_come_out_of_every_format(rows):
    for format_, body in every_way(rows):
        assert rows_in(format_, body) == rows, format_


# What is wrong, in words


WRONG = {
    "unknown": ({**columns(ROWS), "ages": [1, 2]}, "'ages' is not a field of this model; did you mean age?"),
    "missing": ({"age": [1, 2]}, "member is missing"),
    "wrong kind": ({"age": ["40", "3"], "member": [True, False]}, "row 0: age must be a whole number, not text"),
    "null": ({"age": [1, None], "member": [True, False]}, "row 1: age must not be null"),
    "level": (
        {"age": [1, 2], "member": [True, False], "job": ["a", "c"]},
        "row 1: job is not one of the 2 known levels",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_json_columns_and_arrow_are_told_the_same(case):
    wrong, message = WRONG[case]
    for format_, body in ((JSON, json.dumps({"columns": wrong}).encode()), (ARROW, stream(wrong))):
        with pytest.raises(MlserveError) as told:
            rows_in(format_, body)
        assert str(told.value).startswith(message) and told.value.status == 422


BAD_CSV = {
    b"": (400, "the body is empty"),
    b"\n\n": (400, "the body is empty"),
    b"age,member\n40": (400, "line 2 has 1 cells, but the header has 2"),
    b"age,member\n40,true,3\n": (400, "line 2 has 3 cells"),
    b"age,age,member\n1,1,true\n": (400, "the header names 'age' twice"),
    b'age,member\n"40,true\n': (400, "the body is not CSV"),
    b"age,member\n\xff,true\n": (400, "the body is not UTF-8"),
    b"age;member\n40;true\n": (422, "'age;member' is not a field of this model"),
    b"age,member\n40.5,true\n": (422, "row 0: age must be a whole number, not a fraction"),
    b"age,member\n1e400,true\n": (422, "row 0: age must be a"),
    b"age,member\nforty,true\n": (422, "row 0: age must be a whole number, not text"),
    b"age,member\n40,1\n": (422, "row 0: member must be true or false, not text"),
    b"age,member,rate\n40,true,nan\n": (422, "row 0: rate must be a number, not text"),
    b"age,member\n,true\n": (422, "row 0: age must not be null"),
    b"age,member\n" + b"9" * 200_000 + b",true\n": (400, "the body is not CSV: field larger than"),
}


@pytest.mark.parametrize("body", BAD_CSV, ids=lambda body: repr(body[:30]))
def test_csv_is_told_what_is_wrong_with_it(body):
    status, message = BAD_CSV[body]
    with pytest.raises(MlserveError) as told:
        rows_in(CSV, body)
    assert str(told.value).startswith(message) and told.value.status == status


@pytest.mark.parametrize(
    "number", ["1e2", "1E2", "2.5e1", "40.0", "+3", "9007199254740993", "38.5", "1e-1", "123456789012345678901"]
)
def test_a_whole_number_of_csv_is_taken_or_refused_as_that_of_json(number):
    def told(format_, body):
        try:
            return rows_in(format_, body)[0]["age"]
        except InvalidRows as error:
            return error.fields[0].message

    sent = f'[{{"age": {number.lstrip("+")}, "member": true}}]'.encode()
    assert told(CSV, f"age,member\n{number},true\n".encode()) == told(JSON, sent)


COLUMNS = [None, [], 3, {"age": [1], "member": [True]}]


@pytest.mark.parametrize("value", COLUMNS, ids=repr)
def test_columns_that_are_none_are_told_how_they_are_sent(value):
    sent = {"columns": value, **({"x": 1} if isinstance(value, dict) else {})}
    with pytest.raises(InvalidRows, match="columns must be the only key, and an object with a list for each field"):
        rows_in(JSON, json.dumps(sent).encode())


def test_a_field_may_be_called_columns():
    named = replace(CONTRACT, fields=(Field("columns", "integer"), *CONTRACT.fields))
    sent = {"columns": 3, "age": 4, "member": True}
    assert read_body(named, JSON, json.dumps(sent).encode()) == ([sent], True)


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii"])
def test_a_charset_that_is_utf_8_is_read(charset):
    assert body_format(f"application/json; charset={charset}") == JSON


def test_csv_as_others_write_it():
    plain_ = [{"age": 40, "rate": None, "job": None, "note": None, "member": True, "since": None}]
    for body in (
        b"\xef\xbb\xbfage,member\r\n40,TRUE\r\n",
        b"member,age\nTrue,40.0\n\n",
        b'"age","member"\n"40","true"',
    ):
        assert rows_in(CSV, body) == plain_
    assert rows_in(CSV, b"age,member\n") == []


# Arrow, from strangers


def nulls(count):
    "A table whose columns are nothing but a length"
    return stream({"age": pa.nulls(count), "member": pa.nulls(count)})


SHARED = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int8()), ["x" * 200_000])
BAD_ARROW = {
    "empty": (b"", 400),
    "text": (b"age,member\n40,true\n", 400),
    "file format": (b"ARROW1\0\0" + stream(columns(ROWS)), 400),
    "compressed": (stream(columns(ROWS), compression="zstd"), 400),
    "lz4": (stream(columns(ROWS), compression="lz4"), 400),
    "compressed dictionary": (stream({"note": pa.array(["a"]).dictionary_encode()}, compression="zstd"), 400),
    "too many rows": (nulls(bodies.MOST_ROWS + 1), 413),
    "list": (stream({"age": [[1]], "member": [True]}), 422),
    "binary": (stream({"age": [b"1"], "member": [True]}), 422),
    "struct": (stream({"age": [{"a": 1}], "member": [True]}), 422),
    "duration": (stream({"age": pa.array([1], pa.duration("s")), "member": [True]}), 422),
    "runs": (stream({"age": pa.RunEndEncodedArray.from_arrays(pa.array([90_000], pa.int32()), [1])}), 422),
    "NaN": (stream({"age": [1], "rate": [float("nan")], "member": [True]}), 422),
    "infinite": (stream({"age": [1], "rate": [float("inf")], "member": [True]}), 422),
    "bytes that are not text": (
        stream({"note": pa.array([b"\xff"]).view(pa.string()), "age": [1], "member": [True]}),
        400,
    ),
    "nanoseconds": (stream({"since": pa.array([1], pa.timestamp("ns")), "age": [1], "member": [True]}), 400),
    "one name twice": (stream(pa.table([pa.array([1]), pa.array([1])], names=["age", "age"])), 400),
}


@pytest.mark.parametrize("case", BAD_ARROW)
def test_arrow_that_is_not_taken_is_refused_in_one_sentence(case):
    body, status = BAD_ARROW[case]
    with pytest.raises(MlserveError) as told:
        rows_in(ARROW, body)
    assert told.value.status == status and "pyarrow." not in str(told.value).replace("pyarrow.ipc.new_stream", "")


def test_of_a_crowd_of_unknown_columns_few_are_looked_at():
    with pytest.raises(MlserveError, match=r"\(and at least 10002 more\)") as told:
        bodies.check_names(CONTRACT, [f"column {i}" for i in range(20_000)])
    assert len(told.value.fields) == 20


@pytest.mark.parametrize("claimed", [2**40, 2**62, -1, bodies.MOST_ROWS + 1])
def test_rows_that_are_only_claimed_are_not_unpacked(claimed):
    body = bytearray(nulls(77))
    assert body.count(struct.pack("<q", 77)) >= 3
    with pytest.raises(MlserveError) as told:
        rows_in(ARROW, bytes(body).replace(struct.pack("<q", 77), struct.pack("<q", claimed)))
    assert told.value.status == 413


def test_a_text_that_many_rows_share_is_held_once():
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 50_000, pa.int8()), ["x" * 600])
    rows = rows_in(ARROW, stream({"note": shared, "age": [1] * 50_000, "member": [True] * 50_000}))
    assert len({id(row["note"]) for row in rows}) == 1 and len(rows) == 50_000


def views(count, length=2000):
    "Texts that all lie in the same place"
    view = struct.pack("<i4sii", length, b"xxxx", 0, 0)  # length, first letters, which buffer, where in it
    buffers = [None, pa.py_buffer(view * count), pa.py_buffer(b"x" * length)]
    return pa.Array.from_buffers(pa.string_view(), count, buffers)


LONG = {
    "a dictionary": SHARED,
    "views": views(30_000),
    "a dictionary of views": pa.DictionaryArray.from_arrays(pa.array(range(30_000), pa.int32()), views(30_000)),
    "many batches": pa.chunked_array([pa.DictionaryArray.from_arrays(pa.array([0] * 500), ["x" * 10_000])] * 10),
}


@pytest.mark.parametrize("note", LONG.values(), ids=LONG)
def test_rows_of_more_text_than_their_body_are_refused(note):
    body = stream({"note": note, "age": [1] * len(note), "member": [True] * len(note)})
    with pytest.raises(bodies.TooMuchText, match="send fewer at a time"):
        rows_in(ARROW, body)


def test_arrow_of_every_usual_type():
    when = datetime(2024, 5, 17, 8, 30, tzinfo=UTC)
    data = {
        "age": pa.array([40], pa.uint8()),
        "rate": pa.array([Decimal("0.5")]),
        "job": pa.array(["a"]).dictionary_encode(),
        "note": pa.array(["é"]).cast(pa.string_view()),
        "member": [True],
        "since": pa.array([when], pa.timestamp("s", "Europe/Berlin")),
    }
    (one,) = rows_in(ARROW, stream(data))
    assert one == {"age": 40, "rate": 0.5, "job": "a", "note": "é", "member": True, "since": "2024-05-17T08:30:00"}
    assert rows_in(ARROW, stream({n: v[:0] for n, v in data.items()})) == []


@given(st.integers(0, 700), st.binary(min_size=1, max_size=4))
def test_damaged_arrow_is_refused_or_read(at, put):
    whole = stream(columns(ROWS))
    body = whole[: at % len(whole)] + put + whole[at % len(whole) + len(put) :]
    try:
        rows_in(ARROW, body)
    except MlserveError as error:
        assert error.status < 500


# Without pyarrow, and over HTTP


def test_without_pyarrow_arrow_is_refused(monkeypatch):
    monkeypatch.setattr(bodies, "find_spec", lambda name: None)
    formats.cache_clear()
    answer_format.cache_clear()
    try:
        assert formats() == (JSON, CSV)
        with pytest.raises(MlserveError, match="does not read Arrow; send application/json or text/csv") as read:
            body_format(ARROW)
        with pytest.raises(MlserveError, match="does not write Arrow") as written:
            answer_format(ARROW)
        assert (read.value.status, written.value.status) == (415, 406)
        assert answer_format(ARROW + ", */*;q=0.1") == JSON
    finally:
        monkeypatch.undo()
        formats.cache_clear()
        answer_format.cache_clear()


@pytest.fixture(scope="module")
def client(services):
    with httpx.Client(base_url=services["census"].url, timeout=30) as client:
        yield client


def test_each_format_is_answered_in_each(client):
    example = client.get("/model").json()["example"]
    rows = [{**example, "age": age} for age in range(20, 60)]
    wanted = [a["probabilities"] for a in client.post("/predict", json=rows).json()]
    for sent, body in every_way(rows):
        for accept in (JSON, CSV, ARROW):
            answer = client.post("/predict", content=body, headers={"content-type": sent, "accept": accept})
            assert answer.status_code == 200 and answer.headers["content-type"].partition(";")[0] == accept
            assert answer.headers["x-model-version"].startswith("census@")
            if accept == JSON:
                assert [a["probabilities"] for a in answer.json()] == wanted
                continue
            read = (
                csv.DictReader(io.StringIO(answer.text))
                if accept == CSV
                else pa.ipc.open_stream(answer.content).read_all().to_pylist()
            )
            shares = [{k: float(line[f"probability_{k}"]) for k in wanted[0]} for line in read]
            assert shares == wanted


# asks a whole service in a process that has not loaded pyarrow, and tells what the event loop loaded itself
FIRST = """
import asyncio, json, sys, threading
from mlserve.service import asgi
from mlserve.settings import load_settings
from tests.served import ask

loaded = {}

class Watching:
    def find_spec(self, name, path=None, target=None):
        loaded.setdefault(name.partition(".")[0], set()).add(threading.current_thread() is threading.main_thread())

async def main():
    app, body = asgi(load_settings()), sys.stdin.buffer.read()
    arrow = b"application/vnd.apache.arrow.stream"
    for accept in (b"application/json", arrow):
        lines = ((b"host", b"x"), (b"content-type", arrow), (b"accept", accept), (b"content-length", b"%d" % len(body)))
        print((await ask(app, body, lines, "POST", "/predict"))[0], end=" ")
    print(*[name for name in ("numpy", "pandas", "pyarrow") if True in loaded.get(name, ())], "pyarrow" in loaded)

sys.meta_path.insert(0, Watching())
asyncio.run(main())
"""


def test_what_arrow_needs_is_loaded_beside_the_event_loop(projects):
    row = example(load_model(read_bundle(find_bundle(projects["census"] / "models", "census"))).contract)
    done = subprocess.run(
        [sys.executable, "-c", FIRST],
        cwd=projects["census"],
        env=environment(PYTHONPATH=ROOT),
        input=stream({name: [value] for name, value in row.items()}),
        capture_output=True,
        timeout=120,
    )
    assert done.stdout.split() == [b"200", b"200", b"True"], done.stderr


def test_the_openapi_document_names_the_formats(client):
    post = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    assert set(post["requestBody"]["content"]) == set(post["responses"]["200"]["content"]) == {JSON, CSV, ARROW}


@pytest.mark.parametrize("case", ["empty", "compressed", "list", "too many rows"])
def test_over_http_the_error_is_the_usual_one(client, case):
    body, status = BAD_ARROW[case]
    answer = client.post("/predict", content=body, headers={"content-type": ARROW, "accept": ARROW})
    assert answer.status_code == status
    checked(answer)
