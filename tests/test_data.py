"Whatever a file brings becomes the same frame, with the same identities, or is refused in one sentence."

import datetime as dt
from dataclasses import replace
from decimal import Decimal
from hashlib import blake2b, sha256

import numpy as np
import pandas as pd
import pytest

from mlserve.contract import BadContract, Contract, Output, check_rows, infer_field
from mlserve.data import (
    BadData,
    check_frame,
    fingerprint,
    frame,
    frame_of_rows,
    groups,
    held_out,
    load_table,
    make_table,
    plain,
    row_ids,
)
from mlserve.errors import MlserveError
from mlserve.increments import ID, increments_folder
from mlserve.recipe import Recipe, Slice
from mlserve.retrain import _rows
from mlserve.settings import load_settings

DAY = dt.datetime(2024, 5, 17)


def column(values, dtype=None):
    return pd.Series(values, dtype=dtype, name="x")


# Plain values

SAME = {
    "whole numbers": (
        [1, 2, 3],
        [(d, [1, 2, 3]) for d in ("int8", "int64", "uint16", "Int64", "UInt8", "int64[pyarrow]", object, "category")],
    ),
    "whole numbers with a gap": (
        [1, None, 3],
        [(d, [1, None, 3]) for d in ("Int8", "Int64", "int32[pyarrow]", object, "category")],
    ),
    "numbers with a gap": (
        [0.5, None, 2.25],
        [(d, [0.5, None, 2.25]) for d in ("float32", "float64", "Float64", "double[pyarrow]", object, "category")],
    ),
    "text with a gap": (
        ["a", None, "ß"],
        [(d, ["a", None, "ß"]) for d in ("str", "string[python]", "string[pyarrow]", "category", object)]
        + [(object, ["a", np.nan, "ß"]), (object, ["a", pd.NA, "ß"]), (object, ["a", pd.NaT, np.str_("ß")])],
    ),
    "true and false with a gap": (
        [True, None, False],
        [(d, [True, None, False]) for d in ("boolean", "bool[pyarrow]", object, "category")]
        + [(object, [np.True_, np.nan, np.False_])],
    ),
    "days with a gap": (
        [DAY, None],
        [
            (d, [DAY, None])
            for d in ("datetime64[s]", "datetime64[us]", "datetime64[ns]", "timestamp[us][pyarrow]", object)
        ]
        + [("date32[pyarrow]", [DAY.date(), None]), (object, [DAY.date(), None]), (object, [pd.Timestamp(DAY), None])]
        + [("category", pd.to_datetime([DAY, None]))]
        + [("datetime64[us, UTC]", [DAY, None]), ("timestamp[us, tz=UTC][pyarrow]", [DAY, None])]
        + [(object, [DAY.replace(tzinfo=dt.UTC), None])],
    ),
}
CASES = [(name, n) for name, (_, columns) in SAME.items() for n in range(len(columns))]


@pytest.mark.parametrize(("name", "n"), CASES)
def test_a_column_means_the_same_in_every_dtype(name, n):
    wanted, columns = SAME[name]
    dtype, values = columns[n]
    found = plain(column(values, dtype))
    assert found == wanted
    assert [type(v) for v in found] == [type(v) for v in wanted]


@pytest.mark.parametrize(("name", "n"), CASES)
def test_a_column_has_the_same_frame_and_identities_in_every_dtype(name, n):
    wanted, columns = SAME[name]
    values = plain(column(columns[n][1], columns[n][0]))
    field = infer_field("x", wanted)
    assert infer_field("x", values) == field
    made = frame([field], {"x": values})
    pd.testing.assert_frame_equal(made, frame([field], {"x": wanted}))
    assert check_frame([field], made) == ()
    assert (row_ids({"x": values}) == row_ids({"x": wanted})).all()


def test_a_time_with_a_zone_is_that_moment_in_utc():
    here = pd.to_datetime(column(["2024-05-17T00:30:00"])).dt.tz_localize("Asia/Tokyo")
    assert plain(here) == [dt.datetime(2024, 5, 16, 15, 30)]
    field = infer_field("x", plain(here))
    sent = check_rows_of([field], [{"x": "2024-05-17T00:30:00+09:00"}])
    assert (frame_of_rows([field], sent)["x"] == frame([field], {"x": plain(here)})["x"]).all()


def check_rows_of(fields, rows):
    return check_rows(Contract(tuple(fields), Output("regression", "y")), rows).rows


@pytest.mark.parametrize(
    "values",
    [
        [Decimal("1.5"), None],
        pd.to_timedelta([1, 2], unit="h"),
        pd.period_range("2024", periods=2, freq="M"),
        [b"a", b"b"],
        [[1], [2]],
        [{"a": 1}, None],
        [1j, 2j],
        [dt.time(8), None],
    ],
    ids=lambda v: type(v[0]).__name__,
)
def test_what_is_no_field_is_refused_by_name(values):
    with pytest.raises(
        BadData, match=r"^column x holds values of the type \w+; make them numbers, text, true or false"
    ):
        plain(column(values))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["a", 1], "column x mixes values of the types int, str; make them all numbers"),
        ([True, 1], "column x mixes values of the types bool, int"),
        ([0.5, np.inf], "column x holds an infinite value"),
        ([2**53 + 1, 1], "column x holds whole numbers beyond 2^53; make them text"),
        ([None, None], "column x holds no value at all"),
    ],
)
def test_what_a_field_cannot_mean_is_refused_by_name(values, said):
    with pytest.raises(BadContract, match=said.replace("^", r"\^")):
        infer_field("x", plain(column(values, object)))


# Identity and split

ROWS = {
    "age": [39, 50, None, 28],
    "hours": [40.0, 13.5, 37.0, None],
    "sex": ["Male", None, "Female", "Male"],
    "union": [True, False, None, True],
    "since": [DAY, None, dt.datetime(1999, 12, 31, 23, 59), DAY],
}
PERSON = [ROWS[name][0] for name in ROWS]


def with_value(name, value):
    return {**{n: [v] for n, v in zip(ROWS, PERSON, strict=True)}, name: [value]}


@pytest.mark.parametrize(
    "same",
    [
        {name: ROWS[name] for name in reversed(ROWS)},
        ROWS | {"age": [39.0, 50.0, None, 28.0]},
        ROWS | {"hours": [40, 13.5, 37, None]},
        ROWS | {"since": ["2024-05-17", None, "1999-12-31T23:59:00", "2024-05-17"]},
    ],
    ids=["columns in another order", "whole as fraction", "fraction as whole", "dates as text"],
)
def test_ids_do_not_depend_on_how_values_are_stored(same):
    assert (row_ids(same) == row_ids(ROWS)).all()


def test_ids_follow_their_rows():
    turned = {name: values[::-1] for name, values in ROWS.items()}
    assert (row_ids(turned) == row_ids(ROWS)[::-1]).all()
    assert (row_ids({name: values[1:3] for name, values in ROWS.items()}) == row_ids(ROWS)[1:3]).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("age", 40),
        ("age", None),
        ("age", "39"),
        ("hours", 40.000001),
        ("sex", "male"),
        ("sex", ""),
        ("sex", None),
        ("union", False),
        ("union", 1),
        ("since", DAY + dt.timedelta(microseconds=1)),
    ],
)
def test_another_row_has_another_id(name, value):
    assert row_ids(with_value(name, value)) != row_ids(with_value(name, ROWS[name][0]))


def test_values_do_not_run_into_each_other():
    assert row_ids({"a": ["x", "x, y"], "b": ["y", ""]})[0] != row_ids({"a": ["x", "x, y"], "b": ["y", ""]})[1]
    assert row_ids({"a": ['x", "y'], "b": [""]}) != row_ids({"a": ["x"], "b": ["y"]})


def test_ids_are_made_as_they_were_for_older_models():
    # another way to hash would make every row of every older model a new one
    texts = ['[39, 40, "Male", "2024-05-17", true]', "[50, 13.5, null, null, false]"]
    texts += ['[null, 37, "Female", "1999-12-31T23:59:00", null]', '[28, null, "Male", "2024-05-17", true]']
    digests = [blake2b(text.encode(), digest_size=8).hexdigest() for text in texts]
    assert [f"{i:016x}" for i in row_ids(ROWS)] == digests
    lines = sorted(f"{digest}={label}" for digest, label in zip(digests, ['"a"', '"b"', "1", "true"], strict=True))
    assert fingerprint(row_ids(ROWS), ["a", "b", 1.0, True]) == sha256("\n".join(lines).encode()).hexdigest()


def test_a_fingerprint_names_a_set_of_labelled_rows():
    ids = row_ids(ROWS)
    name = fingerprint(ids, [1, 0, 1, 0])
    assert fingerprint(ids[::-1], [0, 1, 0, 1]) == name == fingerprint(ids, [1.0, 0.0, 1.0, 0.0])
    assert fingerprint(ids, [1, 1, 1, 0]) != name != fingerprint(ids[:3], [1, 0, 1])


def test_held_out_rows_stay_put_when_others_come():
    rng = np.random.default_rng(0)
    people = {"age": rng.integers(17, 90, 5000).tolist(), "sex": rng.choice(["Male", "Female"], 5000).tolist()}
    people["hours"] = rng.normal(40, 9, 5000).tolist()
    ids = row_ids(people)
    first = row_ids({name: values[:2000] for name, values in people.items()})
    for share in (0.05, 0.2, 0.5, 0.95):
        chosen = held_out(ids, share)
        assert (held_out(first, share) == chosen[:2000]).all()
        assert abs(chosen.mean() - share) < 4 * np.sqrt(share * (1 - share) / 5000)
    assert not (held_out(ids, 0.2) & ~held_out(ids, 0.3)).any()  # a larger share only adds


def test_equal_inputs_stand_on_one_side():
    people = pd.DataFrame({"age": [30, 40, 50] * 50, "y": [0, 1] * 75})
    table = make_table(Recipe("c", "binary", "y", load=None, build=None, positive=1), people)
    assert all(len(set(table.held_out[people["age"] == age])) == 1 for age in (30, 40, 50))


# The frame of training is the frame of serving


def test_a_row_over_the_wire_is_the_row_of_training():
    fields = tuple(infer_field(name, values) for name, values in ROWS.items())
    trained = frame(fields, ROWS)
    rows = [dict(zip(ROWS, values, strict=True)) for values in zip(*ROWS.values(), strict=True)]
    sent = [row | {"since": row["since"] and row["since"].isoformat()} for row in rows]
    pd.testing.assert_frame_equal(frame_of_rows(fields, check_rows_of(fields, sent)), trained)
    one = frame_of_rows(fields, check_rows_of(fields, [{}]))
    assert (one.dtypes == trained.dtypes).all() and one.isna().all(axis=None)


def test_no_rows_still_have_their_dtypes():
    fields = tuple(infer_field(name, values) for name, values in ROWS.items())
    assert (frame_of_rows(fields, []).dtypes == frame(fields, ROWS).dtypes).all()


# The table

PEOPLE = pd.DataFrame({"age": range(40), "sex": ["a", "b"] * 20, "y": ["n", "p"] * 20})


def recipe(**changes):
    return Recipe(
        **{"name": "c", "task": "binary", "target": "y", "load": None, "build": None, "positive": "p"} | changes
    )


def test_labels_reach_scikit_learn_as_plain_objects():
    # an Arrow-backed array breaks CalibratedClassifierCV of scikit-learn 1.9
    for dtype in ("str", "string[pyarrow]", "category", object):
        target = make_table(recipe(), PEOPLE.astype({"y": dtype})).target
        assert type(target) is np.ndarray and target.dtype == object and set(map(type, target)) == {str}


@pytest.mark.parametrize(
    ("labels", "positive", "classes", "kind"),
    [
        ([True, False], True, (False, True), "b"),
        ([1, 0], 1, (0, 1), "i"),
        ([1.0, 0.0], 1, (0, 1), "i"),
        (["yes", "no"], "yes", ("no", "yes"), "O"),
    ],
)
def test_classes_are_plain_and_in_order(labels, positive, classes, kind):
    table = make_table(recipe(positive=positive), PEOPLE.assign(y=labels * 20))
    assert table.contract.output.classes == classes and table.target.dtype.kind == kind
    assert [type(c) for c in table.contract.output.classes] == [type(c) for c in classes]


def test_features_are_chosen_by_name_and_the_rest_still_identifies_a_row():
    table = make_table(recipe(features=("sex",)), PEOPLE)
    assert table.contract.names == ("sex",) and list(table.rows) == ["sex"]
    assert (table.ids == make_table(recipe(), PEOPLE).ids).all()


def test_numbered_columns_are_known_by_their_numbers_as_text():
    numbered = PEOPLE.set_axis([0, 1, 2], axis="columns")
    table = make_table(recipe(target="2", slices=(Slice("1"),)), numbered)
    assert table.contract.names == ("0", "1") and set(table.slices) == {"1"}


@pytest.mark.parametrize(
    ("changes", "data", "said"),
    [
        ({}, None, "the load function of c must return a pandas DataFrame, not NoneType"),
        ({}, {"y": [1]}, "not dict"),
        ({}, PEOPLE[:0], "the data of c has no rows"),
        ({}, PEOPLE[["y"]], "no column but its target y"),
        ({}, PEOPLE.set_index(["age", "sex"]), "no column but its target y"),
        ({}, PEOPLE.drop(columns="y"), "no column y; its columns are age, sex"),
        ({"features": ("age", "wage")}, PEOPLE, "no column wage"),
        ({}, pd.concat([PEOPLE, PEOPLE[["age"]]], axis=1), "more than one column age"),
        ({}, PEOPLE.assign(wage=None), "column wage holds no value at all"),
        ({}, PEOPLE.assign(wage=Decimal(1)), "column wage holds values of the type Decimal"),
        ({}, PEOPLE.assign(y=PEOPLE["y"].where(PEOPLE["age"] > 3)), "the target y is missing in 4 rows"),
        ({}, PEOPLE.assign(y="p"), "the target y has 1 classes, but the recipe's task is binary"),
        ({}, PEOPLE.assign(y=["a", "b", "c", "d"] * 10), "has 4 classes"),
        ({"task": "multiclass"}, PEOPLE, "has 2 classes, but the recipe's task is multiclass"),
        ({"positive": "q"}, PEOPLE, "'q' is not a class of y"),
        ({}, PEOPLE.assign(y=[1, "p"] * 20), "must be all text, all whole numbers, or all true or false, not int, str"),
        ({}, PEOPLE.assign(y=[0.5, 1.5] * 20), "must be all text, all whole numbers, or all true or false, not float"),
        ({"task": "regression"}, PEOPLE, "the target y of a regression must be finite numbers"),
        ({"task": "regression"}, PEOPLE.assign(y=[np.inf, 1.0] * 20), "must be finite numbers"),
        ({"task": "regression"}, PEOPLE.assign(y=[True, False] * 20), "must be finite numbers"),
        ({"slices": (Slice("wage"),)}, PEOPLE, "the slice wage is no column of the data"),
        ({"slices": (Slice("sex", (1,)),)}, PEOPLE, "the slice sex has edges, but its column holds something else"),
        ({"amend": {"wage": {"low": 0}}}, PEOPLE, "the recipe amends 'wage', which is not among the fields age, sex"),
        ({"amend": {"age": {"lower": 0}}}, PEOPLE, "the recipe amends age in lower"),
        ({"amend": {"age": 5}}, PEOPLE, "the recipe amends age in 5"),
        ({"amend": {"age": {"low": "0"}}}, PEOPLE, "the low of age must be a whole number, not text"),
        ({"amend": {"age": {"low": 9, "high": 3}}}, PEOPLE, "the range of age is empty: 9 to 3"),
        ({"amend": {"age": {"example": 99}}}, PEOPLE, "the example of age lies outside 0 to 39"),
        ({"amend": {"age": {"kind": "years"}}}, PEOPLE, "field age has the kind 'years'"),
        ({"amend": {"age": {"outside": "shout"}}}, PEOPLE, "field age says outside='shout'"),
        ({"amend": {"sex": {"levels": "ab"}}}, PEOPLE, "field sex is a category and needs a list of levels"),
        ({"amend": {"age": {"nullable": "no"}}}, PEOPLE, "field age must say true or false for nullable"),
        ({"amend": {"sex": {"levels": ()}}}, PEOPLE, "field sex is a category and needs a list of levels"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused_in_a_sentence(changes, data, said):
    with pytest.raises(MlserveError) as refused:
        make_table(recipe(**changes), data)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("amended", "row"),
    [
        (
            {"age": {"low": 5, "high": None, "outside": "refuse"}},
            "| age | below 5 | 5 | 0, 1, 2, 3, 4 | 0, 1, 2, 3, 4 |",
        ),
        ({"age": {"low": None, "high": 37, "outside": "refuse"}}, "| age | above 37 | 2 | 38, 39 | 38, 39 |"),
        ({"sex": {"levels": ("a",), "outside": "refuse"}}, "| sex | not a known level | 20 | 1, 3, 5, 7, 9 |"),
        ({"hours": {"nullable": False}}, "| hours | missing | 1 | 7 | nan |"),
    ],
)
def test_data_that_breaks_its_contract_is_shown(amended, row):
    data = PEOPLE.assign(hours=pd.array([*range(7), None, *range(32)], dtype="Int64"))
    with pytest.raises(BadData) as refused:
        make_table(recipe(amend=amended), data)
    assert str(refused.value).startswith("the data of c breaks its contract\n\n| column | rule | rows |")
    assert row in str(refused.value)


def nullable(contract):
    return replace(contract, fields=tuple(replace(f, nullable=True) for f in contract.fields))


def test_an_older_contract_is_kept_and_gives_the_same_frame():
    older = make_table(recipe(), PEOPLE).contract
    for data in (PEOPLE[:10], PEOPLE[:10].astype({"age": float}), PEOPLE[["y", "sex", "age"]][:10].assign(more=1)):
        table = make_table(recipe(), data, contract=older)
        assert table.contract == older
        assert list(table.rows) == ["age", "sex"] and table.rows["age"].dtype == np.int64
    gaps = make_table(recipe(), PEOPLE.assign(age=np.nan), contract=nullable(older))
    assert gaps.rows["age"].dtype == np.float64 and gaps.rows["age"].isna().all()
    far = make_table(recipe(), PEOPLE.assign(age=400), contract=older)  # outside what was seen: news, not an error
    assert set(far.rows["age"]) == {400}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (PEOPLE.drop(columns="sex"), "no column sex"),
        (PEOPLE.assign(age="x"), "column age holds values of the type str, but its contract says integer"),
        (
            PEOPLE.assign(age=PEOPLE["age"] + 0.5),
            "column age holds values of the type float, but its contract says integer",
        ),
        (PEOPLE.assign(age=PEOPLE["age"].where(PEOPLE["age"] > 0)), "| age | missing | 1 | 0 | nan |"),
        (PEOPLE.assign(sex=1), "column sex holds values of the type int, but its contract says category"),
        (PEOPLE.assign(y=["m", "p"] * 20), "the target y has classes that its contract does not have: m"),
    ],
)
def test_data_that_does_not_fit_an_older_contract_is_refused(data, said):
    with pytest.raises(BadData) as refused:
        make_table(recipe(), data, contract=make_table(recipe(), PEOPLE).contract)
    assert said in str(refused.value)


def test_a_contract_for_another_target_is_refused():
    other = make_table(recipe(target="sex", positive="a"), PEOPLE).contract
    with pytest.raises(BadData, match="the contract is for a binary of sex, not a binary of y"):
        make_table(recipe(), PEOPLE, contract=other)


# Slices


@pytest.mark.parametrize("dtype", ["int64", "float64", "Int64", "int64[pyarrow]", object])
def test_edges_begin_groups_in_every_dtype(dtype):
    rows = pd.DataFrame({"age": pd.Series([24, 25, 34, 35, 90], dtype=dtype)})
    assert groups(Slice("age", (25, 35)), rows).tolist() == [
        *("below 25", "25 to below 35", "25 to below 35", "35 and above", "35 and above")
    ]


def test_names_of_groups_are_those_of_the_values():
    rows = pd.DataFrame({"sales": [10, 1000, 2_000_000, None]})
    assert groups(Slice("sales", (1000, 1e6)), rows).tolist() == [
        *("below 1000", "1000 to below 1000000", "1000000 and above", "(missing)")
    ]
    assert groups(Slice("sales"), rows).tolist() == ["10", "1000", "2000000", "(missing)"]
    assert groups(Slice("x"), pd.DataFrame({"x": ["missing", None]})).tolist() == ["missing", "(missing)"]


def test_too_many_groups_are_refused_before_anything_is_fitted():
    with pytest.raises(BadData, match="the slice x has 101 groups, more than 100; give it edges"):
        groups(Slice("x"), pd.DataFrame({"x": range(101)}))


def test_a_missing_value_is_a_group_of_its_own():
    rows = pd.DataFrame({"age": [24, None], "sex": pd.Categorical(["Male", None])})
    assert groups(Slice("age", (25,)), rows).tolist() == ["below 25", "(missing)"]
    assert groups(Slice("sex"), rows).tolist() == ["Male", "(missing)"]


@pytest.mark.parametrize(
    "loaded, said",
    [
        ([1.0, 2.0], "must return a pandas DataFrame, not list"),
        (pd.DataFrame([[1.0, 2.0, 3.0]], columns=["x", "x", "y"]), "more than one column x"),
    ],
)
def test_what_was_collected_hides_no_mistake_of_load(tmp_path, loaded, said):
    settings = load_settings(tmp_path, environ={})
    folder = increments_folder(settings.path(settings.data.folder), "points")
    folder.mkdir(parents=True)
    pd.DataFrame({"x": [1.0], "y": [2.0], ID: ["a1"]}).to_parquet(folder / "000001.parquet")
    recipe = Recipe("points", "regression", "y", load=lambda folder: loaded, build=lambda: None)
    with pytest.raises(BadData, match=said):
        load_table(recipe, settings)


def test_a_parquet_file_that_is_not_there_is_named(tmp_path):
    recipe = Recipe(
        "points", "regression", "y", lambda folder: pd.read_parquet(folder / "points.parquet"), lambda: None
    )
    with pytest.raises(BadData, match=r"no file points\.parquet"):
        load_table(recipe, load_settings(tmp_path, environ={}))


# A file of its own to measure on


def measured(tmp_path, text):
    table = pd.DataFrame({"d": pd.to_datetime(["2020-01-01", "2020-12-31", None] * 4), "y": [0.5, 1.5, 2.5] * 4})
    recipe = Recipe("days", "regression", "y", lambda folder: table, lambda: None)
    contract = make_table(recipe, table).contract
    (tmp_path / "new.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return make_table(recipe, _rows(tmp_path / "new.csv", contract), contract=contract)


def test_dates_of_a_csv_file_are_read_as_predict_reads_them(tmp_path):
    table = measured(tmp_path, "d,y\n2020-06-30,1\n2020-06-30 12:00,2\n,3\n2020-07-01T02:00:00+02:00,4\n")
    moments = [None if pd.isna(moment) else str(moment) for moment in table.rows["d"]]
    assert moments == ["2020-06-30 00:00:00", "2020-06-30 12:00:00", None, "2020-07-01 00:00:00"]
    with pytest.raises(BadData, match=r"new\.csv: row 1: d must be an ISO 8601 date"):
        measured(tmp_path, "d,y\n2020-06-30,1\n31.12.2020,2\n")
    with pytest.raises(BadData, match="no column d"):
        measured(tmp_path, "a,y\n1,2\n")
    with pytest.raises(BadData, match=r"parted at ';'; .* UTF-8 with commas"):
        measured(tmp_path, "d;y\n2020-06-30;1\n")
    with pytest.raises(BadData, match=r"new\.csv is not UTF-8; "):
        measured(tmp_path, "d,y\nJörg,1\n".encode("cp1252"))
