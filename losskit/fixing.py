"""Cures that are safe to make without asking: they keep comments and layout, and what a config means."""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from losskit.config import LINE_BREAK, Document, Path, read
from losskit.constants import LOSSES_KEY, RESERVED
from losskit.diagnostics import Diagnostic, Edit, Position, has_errors
from losskit.validation import Validation

# A cure can uncover the next mistake: a loss whose name is right now has settings that can be checked.
_MAX_ROUNDS = 10
# So many characters are read again to see what cures have done; a config that is longer gets one round.
_MAX_READ = 1 << 18
_COLON = re.compile(r"[ \t]*:[ \t]*")
_SPACE = re.compile(r"\s*")
_LINE_NUMBER = re.compile(r" on line \d+")


class Fixed(NamedTuple):
    """A text after its cures, how many there were, and what is there to say about it."""

    text: str
    cured: int
    validation: Validation


Shown = Callable[[Sequence[Diagnostic], Document], Sequence[Diagnostic]]


def fix(
    text: str,
    name: str | None,
    *,
    at: str | None = None,
    shown: Shown | None = None,
    validation: Validation | None = None,
) -> Fixed:
    """Makes all safe cures: those of diagnostics, and settings under `params` go beside `type`.

    Args:
        text: the config.
        name: of the file.
        at: where the losses stand; MMF reads `params` itself there, and in a list `losses`, so they stay.
        shown: says which of the diagnostics of a document are meant; None for all.
        validation: of the text, where it is at hand.
    """
    fixer = _Fixer(validation or Validation(read(text, name), at=at), at)
    fixer.cure(shown)
    if at is None and "params" in fixer.document.text:
        fixer.flatten()
    return Fixed(fixer.document.text, fixer.cured, fixer.validation)


class _Fixer:
    """Changes a text step by step, and looks after each whether all is well."""

    def __init__(self, validation: Validation, at: str | None) -> None:
        self.validation = validation
        self.at = at
        self.cured = 0
        self.left = _MAX_READ

    @property
    def document(self) -> Document:
        return self.validation.document

    def cure(self, shown: Shown | None) -> None:
        """Makes the edits of diagnostics."""
        for _ in range(_MAX_ROUNDS):
            before, diagnostics = self.document, self.validation.diagnostics
            cured = [d for d in (shown(diagnostics, before) if shown else diagnostics) if d.edits]
            found = len(before.diagnostics) if has_errors(diagnostics) else None

            def is_fine(after: Validation, found: int | None = found) -> bool:
                """Whether it can be read as well, and where there was no error, there is none now."""
                document = after.document
                if found is None:
                    return not has_errors(after.diagnostics)
                return document.data is not None and len(document.diagnostics) <= found

            if not self.apply(_changes(before.text, [d.edits for d in cured]), is_fine):
                return

    def flatten(self) -> None:
        """Puts settings that stand under `params` beside `type`, where this changes nothing else."""
        document, before = self.document, _meaning(self.validation)
        lifted = [_lifted(document, path) for path in dict.fromkeys(_with_params(self.validation))]
        self.apply(list(filter(None, lifted)), lambda after: _meaning(after) == before)

    def apply(self, cures: list[list[_Change]], is_fine: Callable[[Validation], bool]) -> int:
        """Makes the cures after which all is fine; returns how many those are.

        All at once if possible; where that goes wrong, their halves are tried, down to single ones.
        """
        text = self.document.text
        made: list[list[_Change]] = []
        groups = deque([cures])
        while groups:
            group = groups.popleft()
            better = _changed(text, itertools.chain.from_iterable(made + group))
            if better == self.document.text or self.left <= 0:
                continue
            self.left -= len(better)
            after = Validation(read(better, self.document.name), at=self.at)
            if is_fine(after):
                self.validation = after
                made += group
            elif len(group) > 1:
                groups += [group[: len(group) // 2], group[len(group) // 2 :]]
        self.cured += len(made)
        return len(made)


class _Change(NamedTuple):
    """`text` in place of what stands between two offsets."""

    start: int
    end: int
    text: str


def _changes(text: str, cures: Sequence[Sequence[Edit]]) -> list[list[_Change]]:
    starts = [0, *(match.end() for match in LINE_BREAK.finditer(text))] if cures else []

    def offset(position: Position) -> int:
        return starts[position.line - 1] + position.column - 1

    return [[_Change(offset(span.start), offset(span.end), new) for span, new in edits] for edits in cures]


def _changed(text: str, changes: Iterable[_Change]) -> str:
    parts, done = [], 0
    for start, end, new in sorted(set(changes)):
        if start >= done:
            parts += [text[done:start], new]
            done = end
    return "".join([*parts, text[done:]])


# Settings under `params`


def _meaning(validation: Validation) -> Any:
    """What a config says about losses, and what is wrong with it, but not where."""
    problems = sorted((d.code, _LINE_NUMBER.sub("", d.message)) for d in validation.diagnostics)
    return [[(f.entry.name, f.values) for f in losses] for losses in validation.losses], problems


def _with_params(validation: Validation) -> Iterator[Path]:
    """The losses that have `params`."""
    for losses in validation.losses:
        for found in losses:
            *path, last = found.paths["type"]
            if path[:1] == [LOSSES_KEY]:
                continue  # the form of MMF, which needs its `params`
            loss = _value(validation.document, path) if last == "type" else None
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
        space = _SPACE.match(text, line_end)
        after = space.end() if space else line_end
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
