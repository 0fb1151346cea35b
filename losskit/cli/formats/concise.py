"""One line per problem, for editors and `grep`."""

from __future__ import annotations

from losskit.cli.colour import Colour
from losskit.config import Document
from losskit.diagnostics import Diagnostic


def show(diagnostic: Diagnostic, document: Document, colour: Colour) -> str:
    """`train.yaml:5:25: error[LK201] message`."""
    place = diagnostic.file or ""
    if diagnostic.position:
        place += f":{diagnostic.position.line}:{diagnostic.position.column}"
    code = colour.paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity)
    return f"{colour.paint(place, 'bold')}: {code} {diagnostic.text}"
