"""Which files a command is asked to read."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from losskit.cli import CannotRunError

SUFFIXES = (".yaml", ".yml", ".json")


class Found(NamedTuple):
    """A file, and whether the user named it rather than a folder around it."""

    path: str
    is_named: bool


def find(paths: Sequence[str], exclude: Sequence[str], *, force_exclude: bool = False) -> Iterator[Found]:
    """The files behind files, folders and patterns, each once, in order.

    `exclude` leaves out what lies in folders; with `force_exclude`, also what is named.

    Raises:
        CannotRunError: a path does not exist.
    """
    seen: set[str] = set()
    for path in paths or ["."]:
        for found in _expand(path):
            name = _shown(found.path)
            may_exclude = force_exclude or not found.is_named
            if name not in seen and not (may_exclude and _is_excluded(name, exclude)):
                seen.add(name)
                yield Found(name, found.is_named)


def _expand(path: str) -> Iterator[Found]:
    if os.path.isdir(path):
        yield from _walk(path)
    elif os.path.exists(path):
        yield Found(path, True)
    else:
        matches = sorted(glob.glob(path, recursive=True)) if glob.has_magic(path) else []
        if not matches:
            what = "matches nothing" if glob.has_magic(path) else "does not exist"
            raise CannotRunError(f"the path {path!r} {what}")
        for match in matches:
            yield from _expand(match)


def _walk(folder: str) -> Iterator[Found]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield Found(os.path.join(parent, name), False)


def _is_excluded(path: str, patterns: Sequence[str]) -> bool:
    parts = path.split("/")
    ends = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for pattern in patterns for name in (*ends, *parts))


def _shown(path: str) -> str:
    """Relative to the working directory where the file lies below it, with `/` everywhere."""
    relative = os.path.relpath(path) if not path.startswith("..") else path
    return (os.path.abspath(path) if relative.startswith("..") and os.path.isabs(path) else relative).replace(
        os.sep, "/"
    )
