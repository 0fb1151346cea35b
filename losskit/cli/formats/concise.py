"""One line per problem, for editors and `grep`."""

from __future__ import annotations

from losskit.cli.formats import FileReport, Reporter
from losskit.diagnostics import printable


class Format(Reporter):
    """`train.yaml:5:25: error[LK201] message`."""

    def file(self, report: FileReport) -> None:
        for diagnostic in report.diagnostics:
            place = printable(report.name)
            if diagnostic.position:
                place += f":{diagnostic.position.line}:{diagnostic.position.column}"
            code = self.colour.paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity)
            print(f"{self.colour.paint(place, 'bold')}: {code} {printable(diagnostic.text)}", file=self.out)
