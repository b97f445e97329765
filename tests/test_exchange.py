"What is exported judges frames and rows as the contract does, in the other tools themselves."

import json
import os
import subprocess
import sys
import warnings
from datetime import datetime, timedelta

import jsonschema
import numpy as np
import pandas as pd
import pytest

from mlserve.contract import Contract, Field, Output, amend, check_row, example, from_json, infer_field
from mlserve.data import make_table, plain
from mlserve.examples.census import SHIPPED, recipe
from mlserve.exchange import FORMATS, export_contract

BINARY = Output("binary", "income", ("<=50K", ">50K"), positive=">50K")
EVERY_KIND = pd.DataFrame(
    {
        "flag": [True, False, True],
        "maybe": pd.array([True, None, False], dtype="boolean"),
        "count": [1, 2, 3],
        "some": pd.array([1, None, 3], dtype="Int64"),
        "size": [0.5, 1.5, 2.5],
        "gap": [0.5, np.nan, 2.5],
        "colour": pd.Categorical(["red", None, "blue"]),
        "note": [f"{i} is a number" for i in range(3)],
        "day": pd.to_datetime(["2024-01-01", "2024-05-17", "2024-12-31"]),
        "moment": pd.to_datetime(["2024-01-01T08:30:00", None, "2024-12-31T23:59:59"]),
    }
)


@pytest.fixture(scope="module")
def adult():
    return pd.read_parquet(SHIPPED)


@pytest.fixture(scope="module")
def table(adult):
    return make_table(recipe, adult)


@pytest.fixture(scope="module")
def every_kind():
    fields = tuple(infer_field(name, plain(EVERY_KIND[name])) for name in EVERY_KIND)
    changes = {f.name: {"outside": "refuse"} for f in fields} | {"note": {"kind": "text", "levels": None}}
    return Contract(amend(fields, changes), Output("regression", "score", unit="points"))


def in_dtypes(frame):
    "The same frame in the ways in which files and databases bring it"
    texts = [c for c in frame if frame[c].dtype in ("category", "str", "object")]
    yield frame
    yield frame.astype(dict.fromkeys(texts, object)).where(frame.notna(), None)
    yield frame.astype(dict.fromkeys(texts, "str"))
    yield frame.convert_dtypes(dtype_backend="pyarrow")
    yield frame.sample(frac=1, random_state=0)


# JSON Schema


def test_json_schema_is_the_stored_contract(table):
    stored = json.loads(export_contract(table.contract, "jsonschema"))
    jsonschema.Draft202012Validator.check_schema(stored)
    assert from_json(stored) == table.contract
    jsonschema.validate(example(table.contract), stored)


def test_json_schema_takes_the_census_and_refuses_what_the_contract_refuses(table, adult):
    validator = jsonschema.Draft202012Validator(json.loads(export_contract(table.contract, "jsonschema")))
    some = adult.drop(columns="income").sample(300, random_state=0)
    rows = [dict(zip(some, row, strict=True)) for row in zip(*(plain(some[c]) for c in some), strict=True)]
    assert all(validator.is_valid(row) for row in rows)
    for change in ({"age": 121}, {"age": None}, {"age": "39"}, {"wage": 1}, {"capital-gain": -1}, {"sex": 1}):
        assert not validator.is_valid(rows[0] | change) and check_row(table.contract, rows[0] | change)[1]


# pandera


def schema_of(contract):
    made = {}
    exec(compile(export_contract(contract, "pandera"), "schema.py", "exec"), made)
    return made["schema"]


def refused(schema, frame):
    "(column, rule) of all that is wrong"
    from pandera.errors import SchemaErrors, SchemaWarning

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            schema.validate(frame, lazy=True)
            wrong = set()
        except SchemaErrors as errors:
            cases = errors.failure_cases
            wrong = set(zip(cases["column"].fillna(cases["failure_case"]), cases["check"], strict=True))
    return wrong, [w for w in warned if w.category is SchemaWarning]


def test_the_pandera_script_needs_no_mlserve(table, tmp_path):
    (tmp_path / "rows.py").write_text(export_contract(table.contract, "pandera"), encoding="utf-8")
    code = (
        "import sys; sys.modules['mlserve'] = None\n"
        "import pandas, rows\n"
        f"frame = pandas.read_parquet({str(SHIPPED)!r})\n"
        "print(len(rows.schema.validate(frame, lazy=True)), *rows.schema.columns)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["32561", *table.contract.names, "income"]


def test_pandera_takes_the_census_in_every_dtype(table, adult):
    schema = schema_of(table.contract)
    for frame in in_dtypes(adult.sample(2000, random_state=0)):
        assert refused(schema, frame) == (set(), [])
        assert refused(schema, frame.drop(columns="income")) == (set(), [])
    assert refused(schema, table.rows) == (set(), [])


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"age": 121}, {("age", "above 120")}),
        ({"age": -1}, {("age", "below 0")}),
        ({"age": 39.5}, {("age", "not whole")}),
        ({"age": True}, {("age", "not a number")}),
        ({"age": np.nan}, {("age", "not_nullable")}),
        ({"race": None}, {("race", "not_nullable")}),
        ({"race": 3}, {("race", "not text")}),
        ({"wage": 1}, {("wage", "column_in_schema")}),
        ({"income": "much"}, {("income", "isin(['<=50K', '>50K'])")}),
    ],
)
def test_pandera_refuses_what_the_contract_refuses(table, adult, change, wrong):
    found, _ = refused(schema_of(table.contract), adult[:20].assign(**change))
    assert found == wrong


def test_pandera_warns_of_what_the_contract_warns_about(table, adult):
    found, warned = refused(schema_of(table.contract), adult[:20].assign(occupation="Data-science"))
    assert found == set() and len(warned) == 1 and "not a known level" in str(warned[0].message)


def test_pandera_misses_a_column(table, adult):
    found, _ = refused(schema_of(table.contract), adult[:20].drop(columns="age"))
    assert found == {("age", "column_in_dataframe")}


def test_pandera_knows_every_kind(every_kind):
    schema = schema_of(every_kind)
    for frame in in_dtypes(EVERY_KIND):
        assert refused(schema, frame) == (set(), [])
    assert refused(schema, EVERY_KIND.assign(score=[1, 2, 3])) == (set(), [])
    for name in ("some", "gap", "colour", "maybe", "moment"):
        assert refused(schema, EVERY_KIND.assign(**{name: None})) == (set(), [])
    here = EVERY_KIND["day"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    assert refused(schema, EVERY_KIND.assign(day=here)) == (set(), [])
    before = EVERY_KIND["day"] - pd.Timedelta("1h")
    assert refused(schema, EVERY_KIND.assign(day=before))[0] == {("day", "below 2024-01-01")}
    assert refused(schema, EVERY_KIND.assign(size=[1.0, 2.0, np.inf]))[0] == {
        ("size", "not finite"),
        ("size", "above 2.5"),
    }
    assert refused(schema, EVERY_KIND.assign(score=["1", "2", "3"]))[0] >= {("score", "not a number")}


@pytest.mark.parametrize(
    "name", ['a "b"', "it's", "{x}", "back\\slash", "two\nlines", "naïve ≥", "COLUMNS", "'''", "#"]
)
def test_odd_names_survive(name):
    field = Field(name, "category", levels=(name, name + '"'), outside="refuse", example=name, description=name * 2)
    contract = Contract((field,), Output("binary", f"is {name}", (f"no {name}", name), positive=name))
    schema = schema_of(contract)
    frame = pd.DataFrame({name: [name, name + '"'], f"is {name}": [name, f"no {name}"]})
    assert refused(schema, frame) == (set(), [])
    assert refused(schema, frame.replace(name, "other"))[0]
    assert from_json(json.loads(export_contract(contract, "jsonschema"))) == contract
    assert json.loads(export_contract(contract, "gx"))["expectations"][0]["kwargs"] == {"column": name}


# Great Expectations


def test_a_suite_is_plain_json_and_repeats(every_kind):
    for to in FORMATS:
        assert export_contract(every_kind, to) == export_contract(every_kind, to)
    suite = json.loads(export_contract(every_kind, "gx"))
    assert suite["name"] == "score"
    for expectation in suite["expectations"]:
        assert set(expectation) == {"type", "kwargs", "severity", "meta"}
    assert {e["kwargs"]["column"] for e in suite["expectations"]} == set(every_kind.names)


@pytest.fixture(scope="module")
def gx():
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("great_expectations", reason="Great Expectations is installed by make test-gx")


def judged(gx, contract, frame):
    "(column, expectation) of all that failed, and the highest severity among them"
    context = gx.get_context(mode="ephemeral")
    whole = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    suite = gx.ExpectationSuite(**json.loads(export_contract(contract, "gx")))
    result = whole.get_batch({"dataframe": frame}).validate(suite)
    failed = {
        (r.expectation_config.kwargs["column"], r.expectation_config.type.removeprefix("expect_column_"))
        for r in result.results
        if not r.success
    }
    worst = result.get_max_severity_failure()
    return failed, worst and worst.value


@pytest.mark.gx
@pytest.mark.filterwarnings("ignore")
def test_gx_takes_the_census(gx, table, adult):
    assert judged(gx, table.contract, adult) == (set(), None)
    assert judged(gx, table.contract, table.rows) == (set(), None)


@pytest.mark.gx
@pytest.mark.filterwarnings("ignore")
def test_gx_refuses_a_broken_census(gx, table, adult):
    broken = adult.assign(age=adult["age"].where(adult["age"] < 80, 200), race=adult["race"].where(adult["age"] > 20))
    broken = broken.assign(**{"hours-per-week": "many", "capital-gain": -1.0}).drop(columns="sex")
    failed, worst = judged(gx, table.contract, broken)
    assert worst == "critical"
    assert failed == {
        ("age", "values_to_be_between"),
        ("race", "values_to_not_be_null"),
        ("hours-per-week", "values_to_be_in_type_list"),
        ("hours-per-week", "values_to_be_between"),
        ("capital-gain", "values_to_be_in_type_list"),
        ("capital-gain", "values_to_be_between"),
        ("sex", "to_exist"),
        ("sex", "values_to_not_be_null"),
        ("sex", "values_to_be_in_set"),
    }


@pytest.mark.gx
@pytest.mark.filterwarnings("ignore")
def test_gx_warns_of_a_new_level(gx, table, adult):
    failed, worst = judged(gx, table.contract, adult.assign(occupation="Data-science"))
    assert (failed, worst) == ({("occupation", "values_to_be_in_set")}, "warning")


@pytest.mark.gx
@pytest.mark.filterwarnings("ignore")
def test_gx_knows_every_kind(gx, every_kind):
    assert judged(gx, every_kind, EVERY_KIND) == (set(), None)
    objects = EVERY_KIND.assign(maybe=[True, None, False], some=[1.0, np.nan, 3.0])
    assert judged(gx, every_kind, objects) == (set(), None)
    broken = EVERY_KIND.assign(
        flag=["yes", "no", "yes"],
        some=[1.0, 2.0, 9.0],
        gap=["a", "b", "c"],
        colour="green",
        day=EVERY_KIND["day"] - timedelta(days=1),
        moment=[datetime(2030, 1, 1)] * 3,
    )
    failed, worst = judged(gx, every_kind, broken)
    assert worst == "critical"
    assert {name for name, _ in failed} == {"flag", "some", "gap", "colour", "day", "moment"}


@pytest.mark.gx
@pytest.mark.filterwarnings("ignore")
def test_gx_finds_the_suite_as_a_file(gx, table, tmp_path):
    context = gx.get_context(mode="file", project_root_dir=tmp_path)
    place = tmp_path / "gx" / "expectations"
    place.mkdir(exist_ok=True)
    (place / "income.json").write_text(export_contract(table.contract, "gx"), encoding="utf-8")
    assert len(context.suites.get("income").expectations) > len(table.contract.fields)
