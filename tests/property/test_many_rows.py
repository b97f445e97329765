"Many rows are checked by column where that says it all: never with another outcome than row by row"

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve.contract import MANY, Contract, Field, Output, _ordinary_rows, check_row, check_rows
from mlserve.errors import InvalidRows

FIELDS = (
    Field("age", "integer", low=0, high=120, outside="refuse"),
    Field("any", "integer", nullable=True, low=1, high=9, outside="accept"),
    Field("gain", "number", nullable=True, low=0.0, high=10.0),
    Field("job", "category", levels=("a", "b")),
    Field("free", "category", nullable=True, levels=("a", "b"), outside="accept"),
    Field("note", "text"),
    Field("member", "boolean", nullable=True),
)
CONTRACT = Contract(FIELDS, Output("regression", "y"))
ROW = {"age": 40, "any": 3, "gain": 1, "job": "a", "free": "z", "note": "", "member": True}
values = st.sampled_from(
    [None, True, False, 0, 1, 120, 121, -1, 2**53, 2**53 + 1, 10**400, 1.0, 0.5, 10.5, -0.0, float("nan"), float("inf"),
     1e308, "", "a", "b", "z", "40", [], {}]
)  # fmt: skip
changed = st.dictionaries(st.sampled_from([*ROW, "other"]), values, max_size=2)


def one_by_one(rows):
    found = [check_row(CONTRACT, row, number) for number, row in enumerate(rows)]
    errors = tuple(e for _, wrong, _ in found for e in wrong)
    return errors, [row for row, _, _ in found], [tuple(odd) for _, _, odd in found]


@given(
    st.lists(st.one_of(st.just({}), changed), min_size=MANY, max_size=MANY + 2),
    st.lists(st.sampled_from(list(ROW)), max_size=1),
)
def test_columns_and_rows_agree(changes, left_out):
    rows = [{**ROW, **change} for change in changes]
    rows[0] = {k: v for k, v in rows[0].items() if k not in left_out}
    errors, wanted, warnings = one_by_one(rows)
    if errors:
        with pytest.raises(InvalidRows) as told:
            check_rows(CONTRACT, rows)
        assert told.value.fields == errors[:20]
        return
    checked = check_rows(CONTRACT, rows)
    assert repr(checked.rows) == repr(wanted) and checked.warnings == warnings


@pytest.mark.parametrize("name", ROW)
@pytest.mark.parametrize(
    "value", [None, True, 0, 5, 130, 2**54, 0.5, float("nan"), float("inf"), "b", "q", []], ids=repr
)
def test_one_value_in_many_rows_is_seen(name, value):
    rows = [ROW] * 20 + [{**ROW, name: value}]
    errors, wanted, warnings = one_by_one(rows)
    quick = _ordinary_rows(CONTRACT, rows)
    assert quick is None or (not (errors or any(warnings)) and repr(quick) == repr(wanted))


def test_ordinary_rows_take_the_short_way():
    assert _ordinary_rows(CONTRACT, [ROW] * 20) is not None
    assert check_rows(CONTRACT, [ROW] * 20).rows[3]["gain"] == 1.0
    assert type(check_rows(CONTRACT, [ROW] * 20).rows[3]["gain"]) is float
