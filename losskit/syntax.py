"""Says in plain words why a text is no YAML, and where the mistake is rather than where the parser noticed it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from yaml import MarkedYAMLError

_MISSING_SPACE = re.compile(r"\s*(?:- +)*([^\s:#]+):(?=[^\s:/])")
_MISSING_COLON = re.compile(r"\s*(?:- +)*([\w-]+) +([^\s:][^:]*)")
_CLOSERS = {"[": "]", "{": "}"}


class Mistake(NamedTuple):
    """What is wrong, and where; line and column count from 1."""

    message: str
    line: int
    column: int
    help: str | None = None


def explained(error: MarkedYAMLError, lines: Sequence[str]) -> Mistake:
    """What the parser's error means."""
    mark, context = error.problem_mark or error.context_mark, error.context_mark
    if mark is None:
        return Mistake(str(error.problem), 1, 1)
    place = _Place(lines, mark.line + 1, mark.column + 1)
    before = _Place(lines, context.line + 1, context.column + 1) if context else place
    problem, during = error.problem or "", error.context or ""
    found = None
    if "tab character" in problem or ("cannot start any token" in problem and place.char == "\t"):
        found = place.mistake("a tab indents this line", "indent with spaces")
    elif "cannot start any token" in problem:
        found = _beginning(place)
    elif problem.startswith("mapping values are not allowed"):
        found = _second_colon(place)
    elif "quoted scalar" in during and "end of stream" in problem:
        found = before.mistake("the quote that opens here is never closed")
    elif "unknown escape" in problem:
        found = place.mistake(
            f"`\\{place.after}` means nothing in double quotes", r"write `\\` for a backslash, or use single quotes"
        )
    elif "expected node content" in problem:
        opening = _last_open(place)
        found = _never_closed(opening) if opening else place.mistake("a value is missing before this")
    elif during.startswith("while parsing a flow"):
        found = _in_brackets(place, before)
    elif "could not find expected ':'" in problem:
        found = _key(before)
    elif "did not find expected key" in problem or "expected '-' indicator" in problem:
        found = _in_block(place, before, is_list="indicator" in problem)
    elif during.startswith(("while scanning an alias", "while scanning an anchor")):
        found = before.mistake(
            f"no name stands behind `{before.char}`", f"text that begins with `{before.char}` needs quotes"
        )
    elif "expected comment or line break" in problem:
        found = place.mistake(f"nothing may stand behind `{before.char}`", "the text begins on the next line")
    return found or place.mistake(" ".join(filter(None, (during, problem))))


class _Place:
    """A place in the text; one behind its end is moved to the end of what is there."""

    def __init__(self, lines: Sequence[str], line: int, column: int) -> None:
        self.lines = lines
        self.is_end = line > len(lines) or (line == len(lines) and column > len(lines[-1]))
        if self.is_end:
            line = next((n for n in range(len(lines), 0, -1) if lines[n - 1].strip()), 1)
            column = len(lines[line - 1].rstrip()) + 1
        self.line, self.column = line, column
        self.text = lines[line - 1] if lines else ""
        self.char = self.text[column - 1 : column]

    @property
    def after(self) -> str:
        """The character behind the place."""
        return self.text[self.column : self.column + 1]

    @property
    def indent(self) -> int:
        """By how much the line is indented."""
        return len(self.text) - len(self.text.lstrip(" "))

    @property
    def start(self) -> str:
        """What stands before the place in its line."""
        return self.text[: self.column - 1]

    def mistake(self, message: str, help: str | None = None, column: int | None = None) -> Mistake:
        return Mistake(message, self.line, column or self.column, help)

    def above(self) -> _Place | None:
        """The line above that says something."""
        for number in range(self.line - 1, 0, -1):
            text = self.lines[number - 1]
            if text.strip() and not text.lstrip().startswith("#"):
                return _Place(self.lines, number, len(text) - len(text.lstrip()) + 1)
        return None


def _never_closed(opening: _Place) -> Mistake:
    return opening.mistake(f"`{opening.char}` is never closed", f"add `{_CLOSERS[opening.char]}`")


def _last_open(place: _Place) -> _Place | None:
    """The bracket that is open where the text ends."""
    closed = 0
    for number in range(place.line, 0, -1) if place.is_end else ():
        text = place.lines[number - 1]
        for column in range(len(text), 0, -1):
            char = text[column - 1]
            closed += (char in "]}") - (char in "[{")
            if closed < 0:
                return _Place(place.lines, number, column)
    return None


def _beginning(place: _Place) -> Mistake:
    if place.char == "%" and "{" in place.start:
        return place.mistake("this looks like a template", "check what it is rendered to")
    return place.mistake(f"text that begins with `{place.char}` needs quotes")


def _second_colon(place: _Place) -> Mistake | None:
    above = place.above()
    is_key = re.fullmatch(r"\s*(?:- +)*\S+", place.start) is not None
    if above and is_key:
        if missing := _missing_space(above) or _missing_colon(above):
            return missing
        if place.indent > above.indent:
            return _indentation(place, f"the line above by {above.indent}")
    cure = "put what follows on a line of its own, in {…}, or in quotes"
    return None if is_key else place.mistake("a second `: ` stands in one value", cure)


def _missing_space(place: _Place) -> Mistake | None:
    found = _MISSING_SPACE.match(place.text)
    if found is None:
        return None
    rest = place.text[found.end() :].split(" #")[0].strip()
    cure = f"write `{found[1][:40]}: {rest[:40]}`"
    return place.mistake("no space stands behind the colon", cure, found.end())


def _missing_colon(place: _Place) -> Mistake | None:
    found = _MISSING_COLON.fullmatch(place.text.rstrip())
    if found is None:
        return None
    return place.mistake(
        "no colon stands behind the key", f"write `{found[1][:40]}: {found[2][:40]}`", found.end(1) + 1
    )


def _in_brackets(place: _Place, opening: _Place) -> Mistake | None:
    bracket = opening.char
    closer = _CLOSERS.get(bracket)
    if closer is None:
        return None
    if place.is_end or (place.char == ":" and place.line > opening.line):
        return _never_closed(opening)
    if place.char in "]}":
        return place.mistake(f"`{bracket}` is closed by `{place.char}`", f"write `{closer}`")
    column = place.column
    if place.char == ":" and (words := place.start.split()):
        column = len(place.start.rstrip()) - len(words[-1]) + 1
    return place.mistake("a comma is missing before this", column=column)


def _key(place: _Place) -> Mistake:
    if "\u00a0" in place.text:
        column = place.text.index("\u00a0") + 1
        return place.mistake("a no-break space (U+00A0) stands here", "write a plain space", column)
    return _missing_space(place) or place.mistake("this is neither a key nor a value", "a key has `: ` behind it")


def _in_block(place: _Place, opening: _Place, *, is_list: bool) -> Mistake | None:
    if place.char in ("}", "]"):
        return place.mistake(f"this `{place.char}` closes nothing", "remove it")
    if place.char == ":":
        return place.mistake("no key stands before the colon")
    expected = opening.column - 1
    if is_list and place.indent == expected:
        return place.mistake("an item of the list above must begin with `- `", f"or indent it by {expected + 2}")
    if place.char == "-" and place.indent == expected:
        return place.mistake("an item of a list stands among the keys of a mapping", "indent it deeper than its key")
    if place.column - 1 != place.indent:
        return None
    what = "the items of the list" if is_list else "the keys"
    return _indentation(
        place, f"{what} above by {expected}" + (f", what is in them by {expected + 2}" if is_list else "")
    )


def _indentation(place: _Place, others: str) -> Mistake:
    return place.mistake(f"this line is indented by {place.indent}, but {others}", column=place.indent + 1)
