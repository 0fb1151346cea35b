"""Which files a command is asked to read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from losskit.cli import CannotRunError

SUFFIXES = (".yaml", ".yml", ".json")
# What editors read beside the configs; ours is long, and reading it takes longer than checking most configs.
SCHEMA_SUFFIX = ".schema.json"
# What others installed, and what is large: thousands of files that no config is among.
DEFAULT_EXCLUDE = ("node_modules", "site-packages")


class Found:
    """A file, and whether the user named it rather than a folder around it."""

    __slots__ = ("is_named", "path")

    def __init__(self, path: str, is_named: bool) -> None:
        self.path = path
        self.is_named = is_named


def find(paths: Sequence[str], exclude: Sequence[str], *, force_exclude: bool = False) -> Iterator[Found]:
    """The files behind files, folders and patterns, each once, in order; their paths as they are shown.

    `exclude` leaves out what lies in folders; with `force_exclude`, also what is named.

    Raises:
        CannotRunError: a path does not exist.
    """
    seen: set[str] = set()
    for path in paths or ["."]:
        for given in _expand(path):
            if os.path.isdir(given):
                found = _walk(given, exclude)
            elif force_exclude and _is_excluded(shown(given), exclude):
                continue
            else:
                found = iter([Found(shown(given), True)])
            for file in found:
                if file.path not in seen:
                    seen.add(file.path)
                    yield file


def _expand(path: str) -> list[str]:
    if os.path.exists(path):
        return [path]
    if not any(character in path for character in "*?["):
        raise CannotRunError(f"the path {path!r} does not exist")
    import glob

    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise CannotRunError(f"the path {path!r} matches nothing")
    return matches


def _walk(folder: str, exclude: Sequence[str]) -> Iterator[Found]:
    """The configs below a folder, sorted; links are followed only to what lies in the folder too."""
    root = os.path.realpath(folder)
    top = shown(folder)
    waiting = ["" if top == "." else top if top.endswith("/") else f"{top}/"]
    while waiting:
        prefix = waiting.pop()
        folders: list[str] = []
        try:
            with os.scandir(prefix or ".") as entries:
                here = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            # The rest can still be checked, as others do it too.
            print(f"losskit: cannot look into {prefix or '.'!r}: {error.strerror}", file=sys.stderr)
            continue
        for entry in here:
            name, path = entry.name, prefix + entry.name
            if name.startswith(".") or (exclude and _is_excluded(path, exclude)):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{path}/")
            elif name.endswith(SUFFIXES) and not name.endswith(SCHEMA_SUFFIX) and _may_be_read(entry, root):
                yield Found(path, False)
        waiting.extend(reversed(folders))


def _may_be_read(entry: os.DirEntry[str], root: str) -> bool:
    """Whether it is a file, and no pipe that would never end, nor a link that leads out of the folder or nowhere."""
    if not entry.is_symlink():
        return entry.is_file()
    target = os.path.realpath(entry.path)
    return entry.is_file() and os.path.commonpath([root, target]) == root


def _is_excluded(path: str, patterns: Sequence[str]) -> bool:
    import fnmatch

    parts = path.split("/")
    ends = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch.fnmatch(name, pattern.rstrip("/")) for pattern in patterns for name in (*ends, *parts))


def shown(path: str) -> str:
    """Relative to the working directory where the file lies below it, with `/` everywhere."""
    relative = os.path.relpath(path) if not path.startswith("..") else path
    return (os.path.abspath(path) if relative.startswith("..") and os.path.isabs(path) else relative).replace(
        os.sep, "/"
    )
