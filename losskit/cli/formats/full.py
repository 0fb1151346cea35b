"""Each problem with the lines around it, a caret and the cure; for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from losskit.cli.colour import Colour
from losskit.cli.formats import FileReport, Reporter
from losskit.diagnostics import Diagnostic, printable

MAX_WIDTH = 120


class Format(Reporter):
    """The message, the place, the code frame and the help."""

    def file(self, report: FileReport) -> None:
        for diagnostic in report.diagnostics:
            print(text_of(diagnostic, report, self.colour), file=self.out)


def text_of(diagnostic: Diagnostic, report: FileReport, colour: Colour) -> str:
    """A problem as people read it, in several lines."""
    code = colour.paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity)
    lines = [f"{code}: {colour.paint(printable(diagnostic.message), 'bold')}"]
    suggestion = f"did you mean `{printable(diagnostic.suggestion)}`?" if diagnostic.suggestion else ""
    position = diagnostic.position
    gutter = " " * len(str(position.line)) if position else " "
    place = printable(report.name) + (f":{position.line}:{position.column}" if position else "")
    lines.append(f"{gutter}{colour.paint('-->', 'place')} {place}")
    frame = _frame(diagnostic, report.lines, gutter, suggestion, colour)
    lines += frame
    equals = f"{gutter} {colour.paint('=', 'place')}"
    if suggestion and not frame:
        lines.append(f"{equals} {colour.paint(suggestion, 'cure')}")
    if diagnostic.help:
        lines.append(f"{equals} {colour.paint('help', 'bold')}: {printable(diagnostic.help)}")
    return "\n".join(lines) + "\n"


def _frame(diagnostic: Diagnostic, source: Sequence[str], gutter: str, suggestion: str, colour: Colour) -> list[str]:
    position, end = diagnostic.position, diagnostic.end
    if not position or position.line > len(source):
        return []
    text = source[position.line - 1]
    start = position.column - 1
    stop = max(end.column - 1 if end and end.line == position.line else 0, start + 1)
    # A long line is cut to a window around the place.
    left = max(0, start - MAX_WIDTH // 2) if len(text) > MAX_WIDTH else 0
    shown = _window(text, left)
    pad = "".join("\t" if char == "\t" else " " * _width(char) for char in shown[: start - left])
    caret = "^" * max(1, sum(_width(char) for char in shown[start - left : stop - left]))
    before = source[position.line - 2] if position.line > 1 and left == 0 else ""
    cure = f" {colour.paint(suggestion, 'cure')}" if suggestion else ""

    def row(number: int | str, content: str) -> str:
        return f"{colour.paint(f'{number:>{len(gutter)}} |', 'place')} {content}".rstrip()

    return [
        row("", ""),
        *([row(position.line - 1, _window(before, 0))] if before.strip() else []),
        row(position.line, shown),
        row("", f"{pad}{colour.paint(caret, diagnostic.severity)}{cure}"),
    ]


def _window(text: str, left: int) -> str:
    """At most MAX_WIDTH characters of a line, with signs where it goes on and for what cannot be printed."""
    shown = text[left : left + MAX_WIDTH]
    shown = "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in shown)
    if left:
        shown = f"…{shown[1:]}"
    return f"{shown[:-1]}…" if left + MAX_WIDTH < len(text) else shown


def _width(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
