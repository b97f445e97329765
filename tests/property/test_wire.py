"Bytes of every kind: what all readers understand alike is read as json reads it, the rest is refused in a sentence."

import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlserve.wire import BadJson, read_json, write_json

MANY = settings(max_examples=300, deadline=None)
# I-JSON (RFC 7493): whole characters; st.text() draws no surrogates. Keys of a dictionary are unique.
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
pieces = st.lists(
    st.sampled_from(
        [b"{", b"}", b"[", b"]", b",", b":", b'"', b'"a"', b"1", b"-", b"0", b".5", b"e9", b"E+", b"\\u", b"d83d"]
    )
    | st.sampled_from(
        [b"\\", b"NaN", b"-Infinity", b"true", b"null", b" ", b"\n", b"\x00", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80"]
    ),
    max_size=12,
).map(b"".join)


def alike(a, b):
    "Equal, and of the same types all the way down"
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))


def read(data):
    "What read_json makes of it, or its complaint"
    try:
        return read_json(data), None
    except BadJson as bad:
        # at most a hundred characters are quoted, each of them escaped in at most ten
        assert str(bad).isascii() and str(bad).isprintable() and len(str(bad)) < 100 + 100 * 10
        return None, str(bad)


@MANY
@given(st.binary() | pieces | st.text().map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_bytes_are_read_or_refused(data):
    value, complaint = read(data)
    if complaint is None:
        assert alike(value, json.loads(data))


@MANY
@given(values, st.booleans(), st.sampled_from([None, 1, "\t"]), st.binary(max_size=3))
def test_json_is_read_as_json_does_it_and_broken_json_never_breaks_the_reader(value, ascii_, indent, noise):
    data = json.dumps(value, ensure_ascii=ascii_, indent=indent).encode()
    assert alike(read_json(data), value)
    for at in {0, len(data) // 2, len(data)}:
        read(data[:at])
        read(data[:at] + noise + data[at:])


@MANY
@given(values)
def test_what_is_written_is_ascii_on_one_line_and_is_read_back(value):
    data = write_json(value)
    assert data.isascii() and data.decode().isprintable()
    assert alike(read_json(data), value)


@MANY
@given(values, st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 2))
def test_what_is_no_number_is_never_written(value, odd, where):
    with pytest.raises(ValueError):
        write_json([odd, {"a": odd}, [value, [odd]]][where])


@MANY
@given(st.text(), values, values, st.dictionaries(st.text(), values, max_size=3), st.booleans())
def test_a_key_that_stands_twice_is_refused(key, one, other, rest, ascii_):
    pairs = [(key, one), *((k, v) for k, v in rest.items() if k != key), (key, other)]
    body = ",".join(f"{json.dumps(k, ensure_ascii=ascii_)}:{json.dumps(v)}" for k, v in pairs)
    for data in (f"{{{body}}}", f'[{{"deep":{{{body}}}}}]'):
        assert "stands twice in one object" in read(data.encode())[1]


def test_among_very_many_keys_the_one_that_stands_twice_is_found_soon():
    body = b"{" + b",".join(b'"k%06d":1' % i for i in range(90_000)) + b',"k089999":2}'
    assert read(body)[1] == "the key 'k089999' stands twice in one object; send it once"


def test_an_escaped_key_is_the_same_key():
    assert read(rb'{"a": 1, "\u0061": 2}')[1] == "the key 'a' stands twice in one object; send it once"


@MANY
@given(st.text(max_size=5), st.integers(0xD800, 0xDFFF), st.text(max_size=5))
def test_half_a_character_is_refused_as_value_and_as_key(before, half, after):
    text = json.dumps(before)[:-1] + f"\\u{half:04x}" + json.dumps(after)[1:]
    for data in (text, f"{{{text}: 1}}"):
        assert read(data.encode())[1] == "the body holds half of a surrogate pair; send whole characters"


@given(st.integers(1, 200_000), st.sampled_from([b"[", b'{"a":', b'[{"a":[']), st.booleans())
@settings(max_examples=60, deadline=None)
@example(200_000, b"[", True)
def test_any_depth_is_read_or_refused(depth, opened, closed):
    ends = {b"[": b"]", b'{"a":': b"}", b'[{"a":[': b"]}]"}[opened]
    value, complaint = read(opened * depth + b"0" + (ends * depth if closed else b""))
    assert complaint is not None or closed
    assert depth < 100 or complaint in (None, "the body is nested too deeply") or not closed
    while isinstance(value, list | dict):
        value = value[0] if isinstance(value, list) else value["a"]
    assert complaint or value == 0


@MANY
@given(st.sampled_from(["", "-"]), st.integers(1, 9000), st.sampled_from(["", ".0", "e0", "e-5"]))
def test_numbers_of_any_length_are_read_or_refused(sign, digits, tail):
    value, complaint = read(f"{sign}1{'0' * (digits - 1)}{tail}".encode())
    if complaint:
        assert complaint == "a number has more than 4300 digits" and not tail and digits >= 4300
    else:
        assert abs(value) >= 1 or tail == "e-5"
