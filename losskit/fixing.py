"""Cures that are safe to make without asking: they keep comments and layout, and what a config means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from losskit.config import LINE_BREAK, Document, Path, read
from losskit.constants import RESERVED
from losskit.diagnostics import Diagnostic, Edit, Position
from losskit.validation import Validation

# A cure can uncover the next mistake: a loss whose name is right now has settings that can be checked.
_MAX_ROUNDS = 10
_COLON = re.compile(r"[ \t]*:[ \t]*")


class Fixed(NamedTuple):
    """A text after its cures, and how many there were."""

    text: str
    cured: int


Shown = Callable[[Sequence[Diagnostic], Document], Sequence[Diagnostic]]


def fix(text: str, name: str | None, *, at: str | None = None, shown: Shown | None = None) -> Fixed:
    """Makes all safe cures: those of diagnostics, and settings under `params` go beside `type`.

    Args:
        text: the config.
        name: of the file.
        at: where the losses stand; MMF reads `params` itself there, so they stay.
        shown: says which of the diagnostics of a document are meant; None for all.
    """
    count = 0
    for _ in range(_MAX_ROUNDS):
        document = read(text, name)
        diagnostics: Sequence[Diagnostic] = Validation(document, at=at).diagnostics
        cured = [d for d in (shown(diagnostics, document) if shown else diagnostics) if d.edits]
        better = _edited(text, [edit for diagnostic in cured for edit in diagnostic.edits]) if cured else text
        if better == text or not _is_read(better, document):
            break
        text, count = better, count + len(cured)
    if at is None and "params" in text and (flat := _flattened(text, name)):
        text, count = flat.text, count + flat.cured
    return Fixed(text, count)


def _is_read(text: str, before: Document) -> bool:
    """Whether the text can be read as well as before its cures."""
    document = read(text, before.name)
    return document.data is not None and len(document.diagnostics) <= len(before.diagnostics)


class _Change(NamedTuple):
    """`text` in place of what stands between two offsets."""

    start: int
    end: int
    text: str


def _edited(text: str, edits: Iterable[Edit]) -> str:
    starts = [0, *(match.end() for match in LINE_BREAK.finditer(text))]

    def offset(position: Position) -> int:
        return starts[position.line - 1] + position.column - 1

    return _changed(text, (_Change(offset(span.start), offset(span.end), new) for span, new in edits))


def _changed(text: str, changes: Iterable[_Change]) -> str:
    parts, done = [], 0
    for start, end, new in sorted(set(changes)):
        if start >= done:
            parts += [text[done:start], new]
            done = end
    return "".join([*parts, text[done:]])


# Settings under `params`


def _flattened(text: str, name: str | None) -> Fixed | None:
    """The text with the settings of each loss beside its `type`, where this can be done and changes nothing else."""
    count = 0
    tried: set[int] = set()
    while True:
        document = read(text, name)
        before = _meaning(document)
        for number, path in enumerate(_with_params(document)):
            if number in tried:
                continue
            changes = _lifted(document, path)
            better = _changed(text, changes) if changes else text
            if better != text and _meaning(read(better, name)) == before:
                text, count = better, count + 1
                break
            tried.add(number)
        else:
            return Fixed(text, count) if count else None


def _meaning(document: Document) -> Any:
    """What a config says about losses, and what is wrong with it, but not where."""
    validation = Validation(document)
    problems = sorted((d.code, d.message) for d in validation.diagnostics)
    return [[(f.entry.name, f.values) for f in losses] for losses in validation.losses], problems


def _with_params(document: Document) -> Iterator[Path]:
    """The losses that have `params`."""
    for losses in Validation(document).losses:
        for found in losses:
            *path, last = found.paths["type"]
            loss = _value(document, path) if last == "type" else None
            params = loss.get("params") if isinstance(loss, dict) else None
            if isinstance(loss, dict) and isinstance(params, dict) and params.keys().isdisjoint((*loss, *RESERVED)):
                yield tuple(path)


def _value(document: Document, path: Iterable[str | int]) -> Any:
    value: Any = document.data
    for step in path:
        value = value[step]
    return value


def _lifted(document: Document, path: Path) -> list[_Change]:
    """The changes that put the settings under `params` beside `type`; none where the layout is too unusual."""
    text, loss = document.text, _value(document, path)
    places = document.events[id(loss)]
    key, value = places["params"]
    items = document.events[id(loss["params"])]
    start, end = key.start_mark.index, key.end_mark.index
    colon = _COLON.match(text, end)
    if colon is None or getattr(value, "anchor", None) or not hasattr(value, "flow_style"):
        return []
    if not value.flow_style:
        return _lifted_block(text, key, items, colon.end())
    if colon.end() != value.start_mark.index or value.start_mark.line != value.end_mark.line:
        return []
    inside = text[value.start_mark.index + 1 : value.end_mark.index - 1].strip().rstrip(",").rstrip()
    if not inside:
        return []
    if _is_flow(document, path):
        return [_Change(start, value.end_mark.index, inside)]
    # In a block, each setting has a line of its own.
    lines = [text[k.start_mark.index : v.end_mark.index] for k, v in items.values()]
    return [_Change(start, value.end_mark.index, ("\n" + " " * key.start_mark.column).join(lines))]


def _is_flow(document: Document, path: Path) -> bool:
    parent = document.events[id(_value(document, path[:-1]))][path[-1]]
    event = parent[1] if isinstance(parent, tuple) else parent
    return bool(getattr(event, "flow_style", False))


def _lifted_block(text: str, key: Any, items: dict[str, Any], after_colon: int) -> list[_Change]:
    first = next(iter(items.values()))[0]
    less = first.start_mark.column - key.start_mark.column
    line_end = text.find("\n", after_colon) + 1
    if less <= 0 or first.start_mark.line <= key.start_mark.line or not line_end:
        return []
    changes = []
    if text[after_colon:line_end].strip():
        # The comment behind `params:` stays where it is.
        changes.append(_Change(key.start_mark.index, after_colon, ""))
    else:
        after = line_end + len(text[line_end:]) - len(text[line_end:].lstrip())
        changes.append(_Change(key.start_mark.index, after, ""))
        line_end = text.find("\n", after) + 1 or len(text)
    while line_end < len(text):
        start, line_end = line_end, text.find("\n", line_end) + 1 or len(text)
        line = text[start:line_end]
        indent = len(line) - len(line.lstrip(" "))
        if line.strip() and indent <= key.start_mark.column:
            break
        changes.append(_Change(start, start + min(less, indent), ""))
    return changes
