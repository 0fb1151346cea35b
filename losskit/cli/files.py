"""Which files a command is asked to read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence

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
    if not _has_magic(path):
        raise CannotRunError(f"the path {path!r} does not exist")
    # A pattern may meet a pipe or a device, reading which would never end.
    matches = sorted(match for match in _matches(path) if os.path.isfile(match) or os.path.isdir(match))
    if not matches:
        raise CannotRunError(f"the path {path!r} matches nothing")
    return matches


def _has_magic(path: str) -> bool:
    return any(character in path for character in "*?[")


def _matches(pattern: str) -> Iterable[str]:
    """What fits a pattern, each once.

    As the module glob has it, but `**` does not go through links: two that lead to their own folder would make it list
    that folder 2^40 times.
    """
    import fnmatch

    above, name = os.path.split(pattern)
    found: dict[str, None] = {}
    for folder in _matches(above) if _has_magic(above) else [above]:
        if name == "**":
            found.update(dict.fromkeys(_folders(folder)))
        elif not _has_magic(name):
            if os.path.lexists(os.path.join(folder, name)):
                found[os.path.join(folder, name)] = None
        else:
            names = fnmatch.filter((entry.name for entry in _listed(folder)), name)
            # As in a shell, what is hidden is meant only if the pattern says so.
            names = [other for other in names if name.startswith(".") or not other.startswith(".")]
            found.update((os.path.join(folder, other), None) for other in names)
    return found


def _folders(folder: str) -> Iterator[str]:
    """A folder and all below it, without hidden ones and links."""
    waiting = [folder]
    while waiting:
        yield (here := waiting.pop())
        waiting += [
            os.path.join(here, entry.name)
            for entry in _listed(here)
            if not entry.name.startswith(".") and _is_folder(entry)
        ]


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as entries:
            return list(entries)
    except OSError:
        return []


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
                # There may be a hundred thousand others.
                here = sorted(filter(_may_matter, entries), key=lambda entry: entry.name)
        except OSError as error:
            # The rest can still be checked, as others do it too.
            print(f"losskit: cannot look into {prefix or '.'!r}: {error.strerror}", file=sys.stderr)
            continue
        for entry in here:
            path = prefix + entry.name
            if exclude and _is_excluded(path, exclude):
                continue
            if _is_folder(entry):
                folders.append(f"{path}/")
            elif _may_be_read(entry, root):
                yield Found(path, False)
        waiting.extend(reversed(folders))


def _may_matter(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    is_config = name.endswith(SUFFIXES) and not name.endswith(SCHEMA_SUFFIX)
    return not name.startswith(".") and (is_config or _is_folder(entry))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _may_be_read(entry: os.DirEntry[str], root: str) -> bool:
    """Whether it is a file, and no pipe that would never end, nor a link that leads out of the folder or nowhere."""
    try:
        if not entry.is_file():
            return False
        return not entry.is_symlink() or os.path.commonpath([root, os.path.realpath(entry.path)]) == root
    except (OSError, ValueError):  # links in a circle; another drive of Windows
        return False


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
