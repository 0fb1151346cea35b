"""Which problems are shown: `--select`, `--ignore`, and comments `# losskit: ignore[LK103]` in the config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from losskit.cli import CannotRunError
from losskit.config import MAX_PROBLEMS
from losskit.diagnostics import CODES, WARNING, Diagnostic, Edit, Position, Span, cut, in_order, listing
from losskit.spelling import nearest

MARK = "losskit:"
_COMMENT = re.compile(r"(?:^|(?<=\s))#\s*losskit:\s*ignore\b(?:\[([^\]]*)\])?(?P<rest>.*)")
UNUSED, SMOKE = "LK304", "LK501"


class Selection:
    """The codes that are shown: of `select` and `ignore`, the longer beginning of a code counts, and then `ignore`.

    Raises:
        CannotRunError: no code begins so.
    """

    def __init__(self, select: Sequence[str] | None, ignore: Sequence[str] | None) -> None:
        self.select = _beginnings(select) if select else [""]
        self.ignore = _beginnings(ignore or ())

    def shows(self, code: str) -> bool:
        """Whether problems of this code are shown."""
        wanted = max((len(start) for start in self.select if code.startswith(start)), default=-1)
        unwanted = max((len(start) for start in self.ignore if code.startswith(start)), default=-1)
        return wanted > unwanted


def _beginnings(given: Iterable[str]) -> list[str]:
    by_name = {code.name: code.number for code in CODES.values()}
    found = []
    for text in given:
        for word in filter(None, (part.strip() for part in text.split(","))):
            start = by_name.get(word.lower(), "" if word.upper() == "ALL" else word.upper())
            if not any(number.startswith(start) for number in CODES):
                near = nearest(word, by_name)
                cure = f"did you mean {near[0]}?" if near else "`losskit explain` lists the codes"
                raise CannotRunError(f"no code is, or begins with, {word!r}; {cure}")
            found.append(start)
    return found


def silenced(
    diagnostics: Sequence[Diagnostic], lines: Sequence[str], name: str, *, smoke: bool = False
) -> list[Diagnostic]:
    """The problems that no comment on their line silences, and a warning for each comment that silences nothing.

    Without `smoke`, nobody looked for what a smoke test finds, so that a comment may wait for it.
    """
    comments = dict(_comments(lines))
    left = []
    used: set[tuple[int, str]] = set()
    for diagnostic in diagnostics:
        codes = comments.get(diagnostic.line or 0)
        if codes is None or (codes[0] and diagnostic.code not in codes[0]):
            left.append(diagnostic)
        else:
            used.add((diagnostic.line or 0, diagnostic.code if codes[0] else ""))
    for line, (codes_there, match) in comments.items():
        if len(left) >= len(diagnostics) + MAX_PROBLEMS:
            break  # nobody reads so many
        waiting = () if smoke else (SMOKE,)
        unused = [code for code in codes_there or ("",) if (line, code) not in used and code not in waiting]
        if unused:
            left.append(_unused(match, line, [code for code in unused if code], name, is_whole=unused == codes_there))
    return in_order(left)


def _comments(lines: Sequence[str]) -> Iterator[tuple[int, tuple[list[str], re.Match[str]]]]:
    """The lines with a comment that silences, and which codes; none stands for all."""
    for number, text in enumerate(lines, 1):
        if MARK in text and (match := _COMMENT.search(text)):
            yield number, ([code.strip().upper() for code in (match[1] or "").split(",") if code.strip()], match)


def _unused(match: re.Match[str], line: int, codes: list[str], name: str, *, is_whole: bool) -> Diagnostic:
    start = match.start()
    span = Span(Position(line, start + 1), Position(line, match.start("rest") + 1))
    edits: tuple[Edit, ...] = ()
    if (is_whole or not codes) and not match["rest"].strip():
        before = len(match.string[:start].rstrip())
        edits = (Edit(Span(Position(line, before + 1), Position(line, len(match.string) + 1)), ""),)
    named = listing(map(cut, codes))
    what = f"silences {named}, which {'is' if len(codes) == 1 else 'are'}" if codes else "silences what is"
    message = f"the comment {what} not found on this line"
    diagnostic = Diagnostic(UNUSED, message, severity=WARNING, help="remove it", edits=edits)
    return diagnostic.at(span, name)
