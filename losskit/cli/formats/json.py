"""All that is known of each problem, for scripts."""

from __future__ import annotations

from typing import Any

import losskit
from losskit.cli.formats import FileReport, Reporter, Summary
from losskit.cli.formats.json_text import Items, dumps
from losskit.diagnostics import Diagnostic, Position

# Of this report; it changes when a key changes its meaning or goes away.
VERSION = 1


class Format(Reporter):
    """One object; the summary stands last, because it is known last."""

    def start(self) -> None:
        tool = {"name": "losskit", "version": losskit.__version__}
        self.out.write(f'{{\n  "version": {VERSION},\n  "tool": {dumps(tool)},\n  "diagnostics": [')
        self._items = Items(self.out, "    ")

    def file(self, report: FileReport) -> None:
        for diagnostic in report.diagnostics:
            self._items.write(_row(diagnostic, report.name))

    def finish(self, summary: Summary) -> None:
        self._items.finish()
        self.out.write(f'],\n  "summary": {dumps(vars(summary))}\n}}\n')


def _row(diagnostic: Diagnostic, name: str) -> dict[str, Any]:
    edits = [
        {"location": _place(edit.span.start), "end_location": _place(edit.span.end), "text": edit.text}
        for edit in diagnostic.edits
    ]
    return {
        "code": diagnostic.code,
        "name": diagnostic.name,
        "severity": diagnostic.severity,
        "message": diagnostic.message,
        "path": diagnostic.path,
        "filename": name,
        "location": _place(diagnostic.position),
        "end_location": _place(diagnostic.end),
        "help": diagnostic.help,
        "suggestion": diagnostic.suggestion,
        "url": diagnostic.url,
        "fix": {"edits": edits} if edits else None,
    }


def _place(position: Position | None) -> dict[str, int] | None:
    return position and position._asdict()
