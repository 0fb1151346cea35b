"""Which problems are shown: `--select`, `--ignore`, and comments `# losskit: ignore[LK103]` in the config."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from yaml.events import ScalarEvent

from losskit.cli import CannotRunError
from losskit.cli.checking import COMMENT_MARK
from losskit.config import MAX_PROBLEMS, Document, events_of
from losskit.diagnostics import CODES, WARNING, Diagnostic, Edit, Position, Span, cut, in_order, listing
from losskit.spelling import nearest

_COMMENT = re.compile(r"(?:^|(?<=\s))#\s*losskit:\s*(?P<order>.*)")
_ORDER = re.compile(r"ignore(?:\[(?P<codes>[^\]]*)\])?(?P<rest>(?:\s.*)?)$")
UNUSED, SMOKE = "LK304", "LK501"


class Selection:
    """The codes that are shown: of `select` and `ignore`, the longer beginning of a code counts, and then `ignore`.

    Raises:
        CannotRunError: no code begins so.
    """

    def __init__(self, select: Sequence[str] | None, ignore: Sequence[str] | None) -> None:
        self.select = [""] if select is None else _beginnings(select)
        if not self.select:
            raise CannotRunError("`select` names no code, so nothing would be checked")
        self.ignore = _beginnings(ignore or ())

    def shows(self, code: str) -> bool:
        """Whether problems of this code are shown."""
        wanted = max((len(start) for start in self.select if code.startswith(start)), default=-1)
        unwanted = max((len(start) for start in self.ignore if code.startswith(start)), default=-1)
        return wanted > unwanted


def _beginnings(given: Iterable[str]) -> list[str]:
    found = []
    for text in given:
        for word in filter(None, (part.strip() for part in text.split(","))):
            start = beginning(word)
            if start is None:
                near = nearest(word, [code.name for code in CODES.values()])
                cure = f"did you mean {near[0]}?" if near else "`losskit explain` lists the codes"
                raise CannotRunError(f"no code is, or begins with, {word!r}; {cure}")
            found.append(start)
    return found


def beginning(word: str) -> str | None:
    """With what the codes begin that a word stands for: a code, the beginning of some, a name, or ALL."""
    by_name = {code.name: code.number for code in CODES.values()}
    start = by_name.get(word.lower().replace("_", "-"), "" if word.upper() == "ALL" else word.upper())
    return start if any(number.startswith(start) for number in CODES) else None


class _Comment(NamedTuple):
    """A comment that speaks to losskit: which codes it silences (none: all), and what is wrong with it, if anything."""

    span: Span
    codes: list[str]
    mistake: str | None
    is_alone: bool  # whether nothing else stands in the comment

    def silences(self, code: str) -> bool:
        return self.mistake is None and (not self.codes or any(code.startswith(start) for start in self.codes))


def silenced(diagnostics: Sequence[Diagnostic], document: Document, *, smoke: bool = False) -> list[Diagnostic]:
    """The problems that no comment on their line silences, and a warning for each comment that silences nothing.

    Without `smoke`, nobody looked for what a smoke test finds, so that a comment may wait for it.
    """
    comments = dict(_comments(document))
    left: list[Diagnostic] = []
    found: dict[int, set[str]] = {}
    for diagnostic in diagnostics:
        comment = comments.get(diagnostic.line or 0)
        if comment is None or not comment.silences(diagnostic.code):
            left.append(diagnostic)
        else:
            found.setdefault(diagnostic.line or 0, set()).add(diagnostic.code)
    for line, comment in comments.items():
        if len(left) >= len(diagnostics) + MAX_PROBLEMS:
            break  # nobody reads so many
        here = found.get(line, ())
        waits = not smoke and any(SMOKE.startswith(start) for start in comment.codes)
        unused = [start for start in comment.codes if not any(code.startswith(start) for code in here)]
        if comment.mistake or (unused and not waits) or not (comment.codes or here):
            left.append(_unused(comment, unused, document))
    return in_order(left)


def _comments(document: Document) -> Iterator[tuple[int, _Comment]]:
    """The comments that speak to losskit, by line; what stands in a text is none."""
    texts = None
    start = 0
    for number, line in enumerate(document.lines, 1):
        if COMMENT_MARK in line and (match := _COMMENT.search(line)):
            texts = _texts(document) if texts is None else texts
            place = start + match.start()
            before = bisect.bisect_right(texts, place, key=lambda text: text[0])
            if not before or place >= texts[before - 1][1]:
                yield number, _comment(match, number)
        # A line ends with one character, or with two.
        start += len(line) + (2 if document.text.startswith("\r\n", start + len(line)) else 1)


def _texts(document: Document) -> list[tuple[int, int]]:
    """From where to where scalars go that may contain what looks like a comment, in order."""
    marks = [(e.start_mark, e.end_mark) for e in events_of(document.text) if isinstance(e, ScalarEvent)]
    return [(start.index, end.index) for start, end in marks if start and end]


def _comment(match: re.Match[str], line: int) -> _Comment:
    span = Span(Position(line, match.start() + 1), Position(line, len(match.string.rstrip()) + 1))
    order = _ORDER.match(match["order"])
    if order is None or (order["codes"] is None and re.match(r"\s*LK\d", order["rest"])):
        return _Comment(span, [], "losskit does not know this comment; it knows `# losskit: ignore[LK201]`", False)
    codes = []
    for word in re.split(r"[,\s]+", order["codes"] or ""):
        if word:
            start = beginning(word)
            if start is None:
                return _Comment(span, [], f"no code is, or begins with, {cut(word)}", False)
            codes.append(start)
    if order["codes"] is not None and not codes:
        return _Comment(span, [], "the comment names no code; without brackets, it silences all", False)
    return _Comment(span, codes, None, not order["rest"].strip())


def _unused(comment: _Comment, unused: list[str], document: Document) -> Diagnostic:
    if comment.mistake:
        return Diagnostic(UNUSED, comment.mistake, severity=WARNING).at(comment.span, document.name)
    edits: tuple[Edit, ...] = ()
    if comment.is_alone and unused == comment.codes:
        line = document.lines[comment.span.start.line - 1]
        before = len(line[: comment.span.start.column - 1].rstrip())
        start, end = Position(comment.span.start.line, before + 1), comment.span.end
        if not before and comment.span.start.line < len(document.lines):
            # The line goes with the comment that had it for itself.
            start, end = Position(start.line, 1), Position(start.line + 1, 1)
        edits = (Edit(Span(start, end), ""),)
    named = listing(unused)
    what = f"silences {named}, which {'is' if len(unused) == 1 else 'are'}" if unused else "silences what is"
    message = f"the comment {what} not found on this line"
    diagnostic = Diagnostic(UNUSED, message, severity=WARNING, help="remove it", edits=edits)
    return diagnostic.at(comment.span, document.name)
