"""Prints what cures would change, as `diff -u` does."""

from __future__ import annotations

import difflib

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import TextIO

    from losskit.cli.colour import Colour

_STYLES = {"+": "cure", "-": "error", "@": "place"}


def print_difference(before: str, after: str, name: str, out: TextIO, colour: Colour) -> None:
    """A patch that `git apply` and `patch` take."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    for line in difflib.unified_diff(old, new, f"a/{name}", f"b/{name}"):
        text = line.rstrip("\n")
        out.write(colour.paint(text, _STYLES[line[0]]) if line[0] in _STYLES else text)
        out.write("\n" if line.endswith("\n") else "\n\\ No newline at end of file\n")
