"""Reading YAML: every hazard is refused with a position, and numbers are those of YAML 1.2."""

import gc
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
    "too large in UTF-8": ("😀" * (MAX_BYTES // 4 + 1), "LK005", 1, 1, "1,048,576 bytes"),
    "key without a value twice": ("{a, a: 1}", "LK002", 1, 5, "`a` stands here again"),
    "numbers and words as one key": ("true: 1\n'true': 2\n", "LK002", 2, 1, "it was set on line 1"),
    "omap": ("a: !!omap [b: 1]\n", "LK003", 1, 4, "`!!omap`"),
    "timestamp tag": ("a: !!timestamp 2024-13-45\n", "LK003", 1, 4, "`!!timestamp`"),
    "float tag": ("a: !!float x\n", "LK003", 1, 4, "`!!float`"),
    "tag of no name": ("a: ! 1\n", "LK003", 1, 4, "`!`"),
    "tag in full": ("a: !<tag:yaml.org,2002:python/name:os.system> x\n", "LK003", 1, 4, "`!!python/name:os.system`"),
    "tag at the top": ("!!python/object/new:os.system [ls]\n", "LK003", 1, 1, "`!!python/object/new:os.system`"),
    "tag behind a directive": ("%TAG !y! tag:yaml.org,2002:\n---\na: !y!int 1\n", "LK003", 3, 4, "`!!int`"),
    "tag of another name": ("%TAG ! tag:x,2000:\n---\n- !foo 1\n", "LK003", 3, 3, "`tag:x,2000:foo`"),
    "YAML 2": ("%YAML 2.0\n---\na: 1\n", "LK001", 1, 1, "incompatible YAML document"),
    "directive without a document": ("%YAML 1.1\na: 1\n", "LK001", 2, 1, "<document start>"),
    "unknown directive": ("%FOO bar\n---\na: 1\n", "LK001", 1, 5, "unknown directive"),
    "recursive alias in a mapping": ("a: &x {b: *x}\n", "LK004", 1, 11, "`*x` contains itself"),
    "recursive merge": ("a: &x\n  <<: *x\n", "LK004", 2, 7, "`*x` contains itself"),
    "recursive alias at the top": ("&x [*x]\n", "LK004", 1, 5, "`*x` contains itself"),
    "alias before its anchor": ("a: *b\nb: &b 1\n", "LK001", 1, 4, "`&b`"),
    "alias without a name": ("a: *\n", "LK001", 1, 4, "no name stands behind `*`"),
    "two anchors": ("&a &b c: 1\n", "LK001", 1, 4, "did not find expected key"),
    "merge of a list": ("a: &a [1]\nb: {<<: *a}\n", "LK010", 2, 9, "`<<` takes a mapping"),
    "deep flow mappings": ("{a: " * 100, "LK005", 1, 257, "deeper than 64"),
    "deep lists in blocks": ("- " * 100, "LK005", 1, 129, "deeper than 64"),
    "a million items": ("a: [" + "1," * 500_000 + "]", "LK005", 1, None, "more than 250,000 keys and values"),
    "a million keys": ("".join(f"{i:x}:\n" for i in range(140_000)), "LK005", None, None, "more than 250,000 keys"),
    "a million empty lists": ("[" + "[]," * 300_000 + "]", "LK005", 1, None, "a list or a mapping counts twice"),
    "many mistakes": ("- !a\n" * 2000, "LK003", 1, 3, "`!a`"),
    "documents at the end": ("--- {a: 1}\n...\n---\n", "LK006", 3, 1, "second document"),
    "text behind the end": ("a: 1\n...\nb: 2\n", "LK001", 3, 1, "<document start>"),
    "list as key in flow": ("{[1]: 2}", "LK007", 1, 2, "a key must be text"),
    "list as explicit key": ("? [1]\n: b\n", "LK007", 1, 3, "a key must be text"),
    "long key": (f"? {'x' * 70_000}\n: 1\n", "LK005", 1, 3, "characters"),
    "no value and no key": ("[1,,2]", "LK001", 1, 4, "a value is missing"),
    "nothing in a mapping": ("{,}", "LK001", 1, 2, "a value is missing"),
    "open quotes": ("a: 'x\n", "LK001", 1, 4, "never closed"),
    "open list without a line end": ("a: [1", "LK001", 1, 4, "`[` is never closed"),
    "open brackets behind a dash": ("losses: [a---", "LK001", 1, 9, "`[` is never closed"),
    "half a character, escaped": ('a: "\\ud83d"\n', "LK001", 1, 7, "invalid Unicode character"),
    "unknown escape": ('a: "\\q"\n', "LK001", 1, 5, "means nothing in double quotes"),
    "mapping in a line": ("a: b: c\n", "LK001", 1, 5, "a second `: `"),
    "tab in a text": ("a: |\n\tx\n", "LK001", 2, 1, "tab"),
    "reserved sign": ("a: @x\n", "LK001", 1, 4, "begins with `@` needs quotes"),
    "escape code": ("a: \x1b[31m\n", "LK001", 1, 4, "U+001B"),
    "two byte order marks": ("\ufeff\ufeffa: 1\n", "LK001", 1, 1, "U+FEFF"),
    "noncharacter": ("a: \ufffe\n", "LK001", 1, 4, "U+FFFE"),
    "half a character": ("a: größe".encode()[:6], "LK008", 1, 6, "0xc3"),
    "latin-1 behind lines of all kinds": ("a: é\r\nb: 1\rc: ".encode() + b"\xe9", "LK008", 3, 4, "0xe9"),
    "latin-1 behind a byte order mark": (b"\xef\xbb\xbfa\xe9", "LK008", 1, 2, "0xe9"),
    "lines of Windows": ("a: 1\r\nb: 2\r\na: 3\r\n", "LK002", 3, 1, "it was set on line 1"),
    "lines of an old Mac": ("a: 1\rb: 2\ra: 3\r", "LK002", 3, 1, "it was set on line 1"),
    "lines of a mainframe": ("a: 1\x85b: 2\x85a: 3\x85", "LK002", 3, 1, "it was set on line 1"),
    "lines of Unicode": ("a: 1\u2028b: 2\u2029a: 3", "LK002", 3, 1, "it was set on line 1"),
    "characters beyond the BMP": ("{😀: 1, 😀😀: 2, 😀: 3}", "LK002", 1, 15, "`😀` stands here again"),
    "combining characters": ("{e\u0301: 1, e\u0301: 3}", "LK002", 1, 9, "stands here again"),
    "a comment of a megabyte": (f"# {'x' * 1_000_000}\na: 1\na: 2\n", "LK002", 3, 1, "it was set on line 2"),
    "a line of a megabyte": (f"{{a: 1,{' ' * 1_000_000}a: 2}}", "LK002", 1, 1_000_007, "it was set on line 1"),
}


@pytest.mark.parametrize("hazard", HAZARDS)
def test_hazard_is_refused_with_its_place(hazard):
    text, code, line, column, message = HAZARDS[hazard]
    problem = read(text, "c.yaml").diagnostics[0]
    assert problem.code == code
    assert problem.file == "c.yaml"
    assert line is None or problem.line == line
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
    "0x" + "f" * 5000: "0x" + "f" * 5000,
    "9" * 400: int("9" * 400),
    "=": "=",
    "12:34:56": "12:34:56",
    "1:2.5": "1:2.5",
    "-010": -10,
    "1.e-3": 0.001,
    "1.0e+999": math.inf,
    "-1e999": -math.inf,
    "1_000.5": "1_000.5",
    "1e": "1e",
    "+": "+",
    ".": ".",
    "2024-01-01 12:00:00": "2024-01-01 12:00:00",
    "<<": "<<",
    "1\x85  2": "1 2",
    "1\u2028  2": "1\u20282",
    "x # y": "x",
    "\t1": 1,
    "\u200b": "\u200b",
    "'\t'": "\t",
    '"\\0"': "\0",
    "!": None,
}


@pytest.mark.parametrize("text", SCALARS, ids=lambda text: text[:20])
def test_scalars_follow_yaml_1_2(text):
    value = read(f"a: {text}\n").data["a"]
    assert value == SCALARS[text]
    assert type(value) is type(SCALARS[text])


def test_not_a_number_is_read():
    assert math.isnan(read("a: .NaN\n").data["a"])


# What readers of YAML agree on, however odd it looks; nothing is said about it here.
READ = {
    "{a, b: 1}": {"a": None, "b": 1},
    "{? a, ? b}": {"a": None, "b": None},
    "- 1\n - 2": ["1 - 2"],
    "- - - a": [[["a"]]],
    "[a: 1, b]": [{"a": 1}, "b"],
    "? a\n: b": {"a": "b"},
    "a:b: c": {"a:b": "c"},
    "a:\u00a01": "a:\u00a01",
    "%YAML 1.1\n---\na: yes": {"a": "yes"},
    "--- {a: 1}\n...\n# end\n": {"a": 1},
    "a: 1\r\nb: [2,\r\n  3]\r\n": {"a": 1, "b": [2, 3]},
    "<<: {a: 1}\n<<: {b: 2}\n": {"a": 1, "b": 2},
    "2024-01-01: x": {"2024-01-01": "x"},
    "&k key: 1\na: *k\n": {"key": 1, "a": "key"},
    "&k 1: x\na: *k\n": {"1": "x", "a": 1},
    "&k '1': x\na: *k\n": {"1": "x", "a": "1"},
    "a: &x\nb: *x\n": {"a": None, "b": None},
    "a: &x 1\nb: &x 2\nc: *x\n": {"a": 1, "b": 2, "c": 2},
    "a: &x [1]\nb: [*x, *x]\n": {"a": [1], "b": [[1], [1]]},
}


@pytest.mark.parametrize("text", READ)
def test_what_looks_odd_is_read_as_elsewhere(text):
    document = read(text)
    assert (document.data, document.diagnostics) == (READ[text], [])


def test_reading_stops_after_a_thousand_mistakes():
    problems = read("- !a\n" * 2000).diagnostics
    assert len(problems) == 1001
    assert (problems[-1].code, problems[-1].line) == ("LK005", 1001)
    assert "more than 1,000 problems" in problems[-1].message


def test_the_search_for_cycles_is_as_it_was_before():
    for switch in (gc.disable, gc.enable):
        switch()
        before = gc.isenabled()
        read("a: 1")
        read("a: [")
        assert gc.isenabled() == before


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
