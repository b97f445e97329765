"Random contracts, and rows that fit them more or less."

from datetime import datetime

from hypothesis import strategies as st

from mlserve.contract import EXACT, KINDS, OUTSIDE, Contract, Field, Output, iso

names = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["age", "hours-per-week", "work class", 'a"b', "$ref", "type", "1"]
)
finite = st.floats(allow_nan=False, allow_infinity=False)
exact = st.integers(-EXACT, EXACT)
days = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29)).map(
    iso
)  # a zone may move it by a day

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def bounds(values):
    "A range that may be open at either end"
    pair = st.tuples(values, values).map(sorted)
    return st.tuples(pair, st.booleans(), st.booleans()).map(
        lambda drawn: (drawn[0][0] if drawn[1] else None, drawn[0][1] if drawn[2] else None)
    )


VALUES = {
    "boolean": st.booleans(),
    "integer": exact,
    "number": finite,
    "category": st.text(max_size=4),
    "text": st.text(max_size=12),
    "date": days,
}


@st.composite
def fields(draw):
    kind = draw(st.sampled_from(KINDS))
    low, high = draw(bounds(VALUES[kind])) if kind in ("integer", "number", "date") else (None, None)
    levels = tuple(sorted(draw(st.sets(VALUES["category"], min_size=1, max_size=4)))) if kind == "category" else None
    return Field(
        draw(names),
        kind,
        draw(st.booleans()),
        low,
        high,
        levels,
        draw(st.sampled_from(OUTSIDE)),
        draw(st.none() | VALUES[kind]),
        draw(st.text(max_size=10)),
    )


@st.composite
def outputs(draw):
    target = draw(names)
    task = draw(st.sampled_from(["binary", "multiclass", "regression"]))
    if task == "regression":
        return Output(task, target, unit=draw(st.text(max_size=5)))
    if task == "binary" and draw(st.booleans()):
        return Output(task, target, (False, True), draw(st.booleans()))
    size = {"min_size": 2, "max_size": 2} if task == "binary" else {"min_size": 3, "max_size": 5}
    classes = tuple(sorted(draw(st.sets(exact, **size) | st.sets(st.text(max_size=5), **size))))
    return Output(task, target, classes, draw(st.sampled_from(classes)) if task == "binary" else None)


contracts = st.builds(
    Contract, st.lists(fields(), min_size=1, max_size=5, unique_by=lambda f: f.name).map(tuple), outputs()
)

nearly_dates = (
    days
    | days.map(lambda d: d[:10])
    | st.dates().map(lambda d: f"{d}T00:00:00.5+02:00")
    | st.from_regex(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})?)?"
    )
)


EDGES = [
    True,
    False,
    0,
    1,
    "1",
    "",
    30.0,
    30.5,
    -0.0,
    EXACT,
    -EXACT,
    EXACT + 1,
    2.0**53 + 2,
    1e300,
    10**400,
    [],
    {},
    None,
]


def near(field):
    "Values that `field` takes, or might"
    ends = [v for v in (*(field.levels or ()), field.low, field.high) if v is not None]
    beside = [v + step for v in ends if isinstance(v, int | float) for step in (-1, 1)]
    wide = [st.integers(-(2**70), 2**70), st.floats(), nearly_dates, json_values]
    return st.sampled_from(EDGES) | st.sampled_from([*ends, *beside] or EDGES) | st.one_of(wide)


@st.composite
def rows(draw, contract):
    row = {}
    for field in contract.fields:
        if draw(st.integers(0, 9)):
            row[field.name] = draw(VALUES[field.kind] if draw(st.integers(0, 2)) else near(field))
    if not draw(st.integers(0, 9)):
        row |= draw(st.dictionaries(names, json_values, max_size=2))
    return row
