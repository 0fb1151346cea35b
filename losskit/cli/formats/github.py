"""Commands of GitHub Actions, which shows them beside the lines of a pull request."""

from __future__ import annotations

import re

from losskit.cli.formats import FileReport, Reporter, described
from losskit.cli.formats.places import repository_path, well_formed
from losskit.diagnostics import Diagnostic, printable

# What a log would take for orders to the terminal; file names may hold it.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Format(Reporter):
    """`::error title=losskit LK201 (unknown-setting),file=train.yaml,line=5,…::message`."""

    def file(self, report: FileReport) -> None:
        path = _CONTROL.sub("\ufffd", repository_path(report.name))
        for diagnostic in report.diagnostics:
            print(_command(diagnostic, report.name, path), file=self.out)


def _command(diagnostic: Diagnostic, name: str, path: str) -> str:
    properties: dict[str, str | int] = {"title": f"losskit {diagnostic.code} ({diagnostic.name})", "file": path}
    position, end = diagnostic.position, diagnostic.end
    place = printable(name)
    if position:
        end = end or position
        properties |= {"line": position.line, "col": position.column, "endLine": end.line, "endColumn": end.column}
        # The runner drops the whole command if columns are given for more than one line.
        if end.line != position.line:
            del properties["col"], properties["endColumn"]
        place += f":{position.line}:{position.column}"
    listed = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    # The log shows nothing but the message, so the place stands there too.
    first, *rest = described(diagnostic)
    return f"::{diagnostic.severity} {listed}::{_data(chr(10).join([first, f'--> {place}', *rest]))}"


def _data(text: str) -> str:
    return well_formed(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
