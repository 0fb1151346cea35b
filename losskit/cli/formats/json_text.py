"""JSON that every reader takes, written as it comes."""

from __future__ import annotations

import json
import re
from typing import Any, TextIO

_NOT_ASCII = re.compile("[^\x00-\x7f]")


def dumps(value: Any) -> str:
    """`value` on one line, in ASCII alone, so that no encoding of a stream can spoil it.

    A surrogate without its other half is escaped JSON by the grammar, but strict readers refuse it.
    """
    return _NOT_ASCII.sub(_escaped, json.dumps(value, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    return r"\ufffd" if "\ud800" <= char <= "\udfff" else json.dumps(char)[1:-1]


class Items:
    """The items of an array, one line each; the brackets are written by who knows what stands around them."""

    def __init__(self, out: TextIO, indent: str) -> None:
        self._out = out
        self._indent = indent
        self._separator = "\n"

    def write(self, value: Any) -> None:
        """Writes one more item."""
        self._out.write(f"{self._separator}{self._indent}{dumps(value)}")
        self._separator = ",\n"

    def finish(self) -> None:
        """Ends the line of the last item, if there was one, for the bracket that closes the array."""
        if self._separator != "\n":
            self._out.write(f"\n{self._indent[2:]}")
