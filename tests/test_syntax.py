"""Mistakes of YAML itself: told in plain words, where they are."""

import pytest

from losskit.config import read

FEATURE = "output_features:\n  - name: a\n    type: number\n"

# The text, line and column, the message, and the cure.
MISTAKES = {
    "tab": ("\tloss: huber\n", 4, 1, "a tab indents this line", "indent with spaces"),
    "two values": ("    loss: type: huber\n", 4, 15, "a second `: ` stands in one value", "on a line of its own"),
    "open quote": ('    loss: "huber\n    x: 1\n', 4, 11, "the quote that opens here is never closed", None),
    "open bracket": ("    loss: [huber\n    x: 1\n", 4, 11, "`[` is never closed", "add `]`"),
    "open bracket at the end": ("    loss: [huber", 4, 11, "`[` is never closed", "add `]`"),
    "open brace": ("    loss: {type: huber\n    x: 1\n", 4, 11, "`{` is never closed", "add `}`"),
    "open bracket with nothing": ("    loss: [huber, {\n", 4, 19, "`{` is never closed", "add `}`"),
    "comma too many": ("    loss: [huber, , mse]\n", 4, 19, "a value is missing before this", None),
    "other bracket": ("    loss: [huber}\n", 4, 17, "`[` is closed by `}`", "write `]`"),
    "bracket too many": ("    loss: {type: huber}}\n", 4, 24, "this `}` closes nothing", "remove it"),
    "no space, last": (
        "    loss:\n      type: huber\n      delta:0.5\n",
        6,
        12,
        "no space stands",
        "write `delta: 0.5`",
    ),
    "no space, first": (
        "    loss:\n      delta:0.5\n      type: huber\n",
        5,
        12,
        "no space stands",
        "write `delta: 0.5`",
    ),
    "no colon": ("    loss:\n      type huber\n      delta: 1\n", 5, 11, "no colon stands", "write `type: huber`"),
    "no comma": ("    loss: {type: huber delta: 0.5}\n", 4, 24, "a comma is missing before this", None),
    "indented too little": ("   loss: huber\n", 4, 4, "indented by 3, but the items of the list above by 2", None),
    "indented too much": ("     loss: huber\n", 4, 6, "indented by 5, but the line above by 4", None),
    "at": ("    loss: @huber\n", 4, 11, "text that begins with `@` needs quotes", None),
    "star": ("    loss: *\n", 4, 11, "no name stands behind `*`", "needs quotes"),
    "no-break space": ("    loss:\u00a0huber\n    x: 1\n", 4, 10, "a no-break space (U+00A0)", "write a plain space"),
    "escape": ('    loss: "a\\q"\n', 4, 13, "`\\q` means nothing in double quotes", "single quotes"),
    "block": ("    loss: |huber\n", 4, 12, "nothing may stand behind `|`", "on the next line"),
    "no key": ("    : huber\n", 4, 5, "no key stands before the colon", None),
    # Where there is nothing better to say, the parser's own words.
    "question": ("    loss: ? huber\n", 4, 11, "mapping keys are not allowed in this context", None),
}
OF_ITS_OWN = {
    "missing dash": ("a:\n  - b: 1\n  c: 2\n", 3, 3, "must begin with `- `", "or indent it by 4"),
    "dash among keys": ("a:\n  b: 1\n  - c: 2\n", 3, 3, "stands among the keys of a mapping", "indent it deeper"),
    "json without a comma": ('{"a": 1 "b": 2}', 1, 9, "a comma is missing before this", None),
    "json that ends": ('{"a": [{"b": 1, }]\n', 1, 1, "`{` is never closed", "add `}`"),
    "template": ("{% if x %}\na: 1\n", 1, 2, "this looks like a template", "what it is rendered to"),
    "crlf": ("a: 1\r\n\tb: 1\r\n", 2, 1, "a tab indents this line", None),
}
CASES = {name: (FEATURE + text, *rest) for name, (text, *rest) in MISTAKES.items()} | OF_ITS_OWN


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_told_where_they_are(case):
    text, line, column, message, help = CASES[case]
    (problem,) = read(text, "c.yaml").diagnostics
    assert problem.code == "LK001"
    assert problem.message.startswith("not valid YAML: ")
    assert (problem.line, problem.column) == (line, column)
    assert message in problem.message
    assert help is None or help in problem.help


def test_a_byte_that_is_no_utf_8_is_told_with_its_column():
    (problem,) = read("a: 1\nb: größe\n".encode("latin-1")).diagnostics
    assert (problem.line, problem.column) == (2, 6)
    assert problem.help == "save the file as UTF-8; in Latin-1 the byte is ö"
