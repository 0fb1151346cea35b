"""Each problem with the lines around it, a caret and the cure; for people."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from losskit.cli.colour import Colour
from losskit.cli.formats import FileReport, Reporter
from losskit.diagnostics import Diagnostic

MAX_WIDTH = 120


class Format(Reporter):
    """The message, the place, the code frame and the help."""

    def file(self, report: FileReport) -> None:
        for diagnostic in report.diagnostics:
            print(_text(diagnostic, report, self.colour), file=self.out)


def _text(diagnostic: Diagnostic, report: FileReport, colour: Colour) -> str:
    code = colour.paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity)
    lines = [f"{code}: {colour.paint(diagnostic.message, 'bold')}"]
    suggestion = f"did you mean `{diagnostic.suggestion}`?" if diagnostic.suggestion else ""
    position = diagnostic.position
    gutter = " "
    if position:
        gutter = " " * len(str(position.line))
        lines.append(f"{gutter}{colour.paint('-->', 'place')} {report.name}:{position.line}:{position.column}")
        lines += _frame(diagnostic, report.lines, gutter, suggestion, colour)
    elif suggestion:
        lines.append(f"{gutter} = {suggestion}")
    if diagnostic.help:
        lines.append(f"{gutter} {colour.paint('=', 'place')} help: {diagnostic.help}")
    return "\n".join(lines) + "\n"


def _frame(diagnostic: Diagnostic, source: Sequence[str], gutter: str, suggestion: str, colour: Colour) -> list[str]:
    position, end = diagnostic.position, diagnostic.end
    if not position or position.line > len(source):
        return []
    bar = colour.paint("|", "place")
    text = source[position.line - 1]
    start = position.column - 1
    stop = end.column - 1 if end and end.line == position.line else start + 1
    # A long line is cut to a window around the place.
    left = max(0, start - MAX_WIDTH // 2) if len(text) > MAX_WIDTH else 0
    shown = "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text[left : left + MAX_WIDTH])
    pad = "".join("\t" if char == "\t" else " " * _width(char) for char in shown[: start - left])
    marked = shown[start - left : max(stop, start + 1) - left]
    caret = "^" * max(1, sum(_width(char) for char in marked))
    lines = [f"{gutter} {bar}"]
    if position.line > 1 and left == 0:
        before = source[position.line - 2][:MAX_WIDTH]
        if before.strip():
            lines.append(f"{position.line - 1:>{len(gutter)}} {bar} {before}")
    lines.append(f"{position.line} {bar} {shown}")
    cure = f" {colour.paint(suggestion, 'cure')}" if suggestion else ""
    lines.append(f"{gutter} {bar} {pad}{colour.paint(caret, diagnostic.severity)}{cure}")
    return lines


def _width(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
