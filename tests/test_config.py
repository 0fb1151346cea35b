"""Reading YAML: every hazard is refused with a position, and numbers are those of YAML 1.2."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losskit.config import MAX_BYTES, read

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)
MERGE_BOMB = "p0: &p0 {k0: 1}\n" + "".join(f"p{i}: &p{i} {{<<: [*p{i - 1}, *p{i - 1}]}}\n" for i in range(1, 25))

# text, code, line, column, a part of the message
HAZARDS = {
    "repeated key": ("a: 1\nb: 2\na: 3\n", "LK002", 3, 1, "it was set on line 1"),
    "repeated key in flow": ("{a: 1, a: 2}", "LK002", 1, 8, "`a` stands here again"),
    "python object": ("a: !!python/object/apply:os.system [ls]\n", "LK003", 1, 4, "`!!python/object/apply:os.system`"),
    "custom tag": ("a: !foo 1\n", "LK003", 1, 4, "`!foo`"),
    "empty int tag": ("a: !!int ''\n", "LK003", 1, 4, "`!!int`"),
    "binary": ("a: !!binary aGVsbG8=\n", "LK003", 1, 4, "`!!binary`"),
    "set": ("a: !!set {x, y}\n", "LK003", 1, 4, "`!!set`"),
    "recursive alias": ("a: &x\n  b: [1, *x]\n", "LK004", 2, 10, "`*x` contains itself"),
    "unknown alias": ("a: *x\n", "LK001", 1, 4, "`&x`"),
    "alias bomb": (BOMB, "LK005", 6, None, "once aliases are written out"),
    "merge bomb": (MERGE_BOMB, "LK005", 16, None, "once aliases are written out"),
    "too deep": ("[" * 100_000, "LK005", 1, 65, "deeper than 64"),
    "too deep in blocks": ("".join(" " * i + "a:\n" for i in range(70)), "LK005", 65, 65, "deeper than 64"),
    "long scalar": (f"a: {'x' * 70_000}\n", "LK005", 1, 4, "characters"),
    "several documents": ("a: 1\n---\nb: 2\n", "LK006", 2, 1, "second document"),
    "list as key": ("[1, 2]: 3\n", "LK007", 1, 1, "a key must be text"),
    "mapping as key": ("{a: 1}: 3\n", "LK007", 1, 1, "a key must be text"),
    "alias as key": ("a: &x b\n*x : 3\n", "LK007", 2, 1, "a key must be text"),
    "tab": ("a:\n\tb: 1\n", "LK001", 2, 1, "a tab indents this line"),
    "unclosed": ("a: [1, 2\nb: 3\n", "LK001", 1, 4, "`[` is never closed"),
    "bad indentation": ("a: 1\n  b: 2\n", "LK001", 2, None, "not valid YAML"),
    "control character": ("a: x\x00y\n", "LK001", 1, 5, "U+0000"),
    "byte order mark inside": ("a: 1\nb\ufeff: 2\n", "LK001", 2, 2, "U+FEFF"),
    "lone surrogate": ("a: \ud800\n", "LK001", 1, 4, "U+D800"),
    "empty": ("", "LK009", 1, 1, "empty"),
    "comment only": ("# nothing\n", "LK009", 1, 1, "empty"),
    "null": ("---\n", "LK009", 1, 1, "empty"),
    "merge of a scalar": ("a:\n  <<: 3\n", "LK010", 2, 7, "`<<` takes a mapping"),
    "latin-1": ("a: größe\n".encode("latin-1"), "LK008", 1, 6, "not UTF-8"),
    "utf-16": ("a: 1\n".encode("utf-16"), "LK008", 1, 1, "not UTF-8"),
    "too large": (b"#" * (MAX_BYTES + 1), "LK005", 1, 1, "1,048,576 bytes"),
}


@pytest.mark.parametrize("hazard", HAZARDS)
def test_hazard_is_refused_with_its_place(hazard):
    text, code, line, column, message = HAZARDS[hazard]
    problem = read(text, "c.yaml").diagnostics[0]
    assert problem.code == code
    assert problem.file == "c.yaml"
    assert problem.line == line
    assert column is None or problem.column == column
    assert message in problem.message


def test_repeated_keys_are_all_told_and_the_first_value_stays():
    document = read("a: 1\na: 2\na: 3\n")
    assert [d.line for d in document.diagnostics] == [2, 3]
    assert document.data == {"a": 1}


SCALARS = {
    "1e-3": 0.001,
    "1E5": 1e5,
    "1.0e3": 1000.0,
    "-.5": -0.5,
    "5.": 5.0,
    "+3": 3,
    "010": 10,
    "08": 8,
    "0x1F": "0x1F",
    "0o10": "0o10",
    "0b101": "0b101",
    "1_000": "1_000",
    "1:30": "1:30",
    "yes": "yes",
    "no": "no",
    "on": "on",
    "y": "y",
    "tRUE": "tRUE",
    "True": True,
    "FALSE": False,
    "~": None,
    "Null": None,
    ".inf": math.inf,
    "-.INF": -math.inf,
    "nan": "nan",
    "inf": "inf",
    "1e999": math.inf,
    "2024-01-01": "2024-01-01",
    "2024-13-45": "2024-13-45",
    "'1'": "1",
    '"true"': "true",
    "9" * 5000: "9" * 5000,
    "=": "=",
}


@pytest.mark.parametrize("text", SCALARS, ids=lambda text: text[:20])
def test_scalars_follow_yaml_1_2(text):
    value = read(f"a: {text}\n").data["a"]
    assert value == SCALARS[text]
    assert type(value) is type(SCALARS[text])


def test_not_a_number_is_read():
    assert math.isnan(read("a: .NaN\n").data["a"])


def test_keys_are_text():
    assert read("1: a\ntrue: b\n~: c\n1.0: d\n").data == {"1": "a", "true": "b", "~": "c", "1.0": "d"}


def test_merge_keys_yield_to_explicit_ones_and_keep_their_places():
    document = read("base: &b\n  x: 1\n  y: 2\nother: {<<: *b, y: 3}\nboth: {<<: [{x: 5}, *b]}\nplain: {'<<': 1}\n")
    assert document.data["other"] == {"x": 1, "y": 3}
    assert document.data["both"] == {"x": 5, "y": 2}
    assert document.data["plain"] == {"<<": 1}
    assert document.entry(("other", "x")).value.start == (2, 6)
    assert document.entry(("other", "y")).value.start == (4, 20)


def test_a_byte_order_mark_at_the_start_is_left_out():
    assert read(b"\xef\xbb\xbfa: 1\n").data == {"a": 1}
    assert read("\ufeffa: 1\n").data == {"a": 1}


def test_place_of_what_is_missing_is_that_of_its_parent():
    document = read("a:\n  b: 1\n")
    assert document.entry(("a", "c")).value.start == (2, 3)
    assert document.entry(()) is None


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abc 'é\"\\"),
    lambda children: st.lists(children) | st.dictionaries(st.text("abc", min_size=1), children),
    max_leaves=20,
)


@given(json_values.filter(lambda value: value is not None))
def test_json_is_read_as_json(value):
    import json

    document = read(json.dumps(value), "a.json")
    assert document.diagnostics == []
    assert document.data == value


@given(st.text() | st.binary() | st.text("[]{}:,&*!|>#-?'\"% \n\tab1", max_size=60))
def test_no_text_makes_the_reader_raise(text):
    document = read(text)
    assert document.data is not None or document.diagnostics
