"""GitLab's report of Code Quality."""

from __future__ import annotations

from losskit.cli.formats import FileReport, Reporter, Summary
from losskit.cli.formats.json_text import Items
from losskit.cli.formats.places import Fingerprints, repository_path
from losskit.diagnostics import ERROR

_FIRST_LINE = 1


class Format(Reporter):
    """An array of problems; GitLab tells the new ones from the old ones by their fingerprints."""

    def start(self) -> None:
        self.out.write("[")
        self._items = Items(self.out, "  ")
        self._fingerprints = Fingerprints()

    def file(self, report: FileReport) -> None:
        path = repository_path(report.name)
        for diagnostic in report.diagnostics:
            # GitLab asks for a line even where there is none.
            begin = diagnostic.line or _FIRST_LINE
            self._items.write(
                {
                    "description": diagnostic.text,
                    "check_name": f"{diagnostic.code} ({diagnostic.name})",
                    "fingerprint": self._fingerprints.of(diagnostic, path),
                    "severity": "major" if diagnostic.severity == ERROR else "minor",
                    "location": {
                        "path": path,
                        "lines": {"begin": begin, "end": diagnostic.end.line if diagnostic.end else begin},
                    },
                }
            )

    def finish(self, summary: Summary) -> None:
        self._items.finish()
        self.out.write("]\n")
