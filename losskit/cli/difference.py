"""Prints what cures would change, as `diff -u` does."""

from __future__ import annotations

import itertools
import re

from losskit.diagnostics import printable

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from losskit.cli.colour import Colour

    # The lines from `a` to `b` of the old text have become those from `c` to `d` of the new one.
    Change = tuple[int, int, int, int]

_STYLES = {"+": "cure", "-": "error", "@": "place"}
# Only these end a line for `patch`, other than for YAML.
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_CONTEXT = 3
# So many lines behind a change, one is looked for that both texts have.
_WINDOW = 16
# How far ahead in the old and in the new text it may stand, the nearest first; above all as far in both.
_AHEAD = sorted(itertools.product(range(_WINDOW), repeat=2), key=lambda ab: 2 * max(ab) + abs(ab[0] - ab[1]))


def print_difference(before: str, after: str, name: str, out: TextIO, colour: Colour) -> None:
    """A patch that `git apply` and `patch` take."""
    old, new = _LINE.findall(before), _LINE.findall(after)
    for line in _patch(old, new, printable(name)):
        text = line.rstrip("\n")
        out.write(colour.paint(text, _STYLES[line[0]]) if line[0] in _STYLES else text)
        out.write("\n" if line.endswith("\n") else "\n\\ No newline at end of file\n")


def _patch(old: Sequence[str], new: Sequence[str], name: str) -> Iterator[str]:
    hunk: list[Change] = []
    for change in _changes(old, new):
        if hunk and change[0] - hunk[-1][1] > 2 * _CONTEXT:
            yield from _hunk(old, new, hunk)
            hunk = []
        elif not hunk:
            yield from (f"--- a/{name}\n", f"+++ b/{name}\n")
        hunk.append(change)
    if hunk:
        yield from _hunk(old, new, hunk)


def _changes(old: Sequence[str], new: Sequence[str]) -> Iterator[Change]:
    """What differs, from top to bottom.

    Cures change lines where they stand and add or take away a few; a difference of texts in general, as difflib finds
    it, takes minutes for some pairs of 20,000 lines.
    """
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new) and old[i] == new[j]:
            i, j = i + 1, j + 1
            continue
        a, c = i, j
        i, j = _next_match(old, new, i, j)
        yield a, i, c, j


def _next_match(old: Sequence[str], new: Sequence[str], i: int, j: int) -> tuple[int, int]:
    """Where both texts go on alike, or their ends."""
    while i < len(old) and j < len(new):
        for a, b in _AHEAD:
            if i + a < len(old) and j + b < len(new) and old[i + a] == new[j + b]:
                return i + a, j + b
        i, j = i + _WINDOW, j + _WINDOW
    return len(old), len(new)


def _hunk(old: Sequence[str], new: Sequence[str], changes: Sequence[Change]) -> Iterator[str]:
    before = min(_CONTEXT, changes[0][0])
    after = min(_CONTEXT, len(old) - changes[-1][1])
    first, end = changes[0][0] - before, changes[-1][1] + after
    yield f"@@ -{_range(first, end)} +{_range(changes[0][2] - before, changes[-1][3] + after)} @@\n"
    done = first
    for a, b, c, d in changes:
        yield from (f" {line}" for line in old[done:a])
        yield from (f"-{line}" for line in old[a:b])
        yield from (f"+{line}" for line in new[c:d])
        done = b
    yield from (f" {line}" for line in old[done:end])


def _range(first: int, end: int) -> str:
    size = end - first
    # Of no lines, the one before them is named.
    return f"{first + (size > 0)},{size}" if size != 1 else f"{end}"
