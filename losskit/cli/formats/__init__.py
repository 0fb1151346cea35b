"""The output formats of `losskit validate`: one module each, with a class `Format`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import TextIO

    from losskit.cli.colour import Colour
    from losskit.diagnostics import Diagnostic

FORMATS = ("full", "concise", "json", "github", "gitlab", "junit", "sarif")


class FileReport:
    """A file that was checked: its name as it is shown, and its problems in the order of their places.

    `lines` are those of the file, and are there only where there are problems.
    """

    __slots__ = ("diagnostics", "lines", "name")

    def __init__(self, name: str, diagnostics: Sequence[Diagnostic] = (), lines: Sequence[str] = ()) -> None:
        self.name = name
        self.diagnostics = diagnostics
        self.lines = lines


class Summary:
    """What came out of all files."""

    def __init__(self, files: int = 0, wrong_files: int = 0, errors: int = 0, warnings: int = 0) -> None:
        self.files = files
        self.wrong_files = wrong_files
        self.errors = errors
        self.warnings = warnings


def described(diagnostic: Diagnostic) -> list[str]:
    """The problem and its cure in lines of their own, without the place."""
    return [diagnostic.text, *([f"help: {diagnostic.help}"] if diagnostic.help else [])]


class Reporter:
    """Writes what was found: `start`, then `file` for each file in order, also for right ones, then `finish`.

    A report is written as it comes, so that ten thousand files need no more memory than one, as far as the format
    allows.
    """

    def __init__(self, out: TextIO, colour: Colour) -> None:
        self.out = out
        self.colour = colour

    def start(self) -> None:
        """What stands before all files."""

    def file(self, report: FileReport) -> None:
        """What there is to say of one file."""

    def finish(self, summary: Summary) -> None:
        """What stands behind all files."""


def reporter(name: str, out: TextIO, colour: Colour) -> Reporter:
    """The reporter of a format, one of `FORMATS`."""
    made: Reporter = importlib.import_module(f"{__name__}.{name}").Format(out, colour)
    return made
