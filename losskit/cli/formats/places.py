"""What other programs call a file and a problem: the path in the repository, its URI, a fingerprint."""

from __future__ import annotations

import os
import re

from losskit.diagnostics import Diagnostic

# The folders into which GitHub and GitLab check the repository out.
_ROOTS = ("GITHUB_WORKSPACE", "CI_PROJECT_DIR")
_LINE_NUMBER = re.compile(r"\bline \d+")
_SURROGATE = re.compile("[\ud800-\udfff]")


def repository_path(name: str) -> str:
    """The path from the root of the repository, where CI says which that is; otherwise from the current folder.

    A job may run in a folder of the repository, and its annotations would then be looked for in the wrong place.
    """
    path = os.path.normpath(name)
    root = next(filter(None, map(os.environ.get, _ROOTS)), None)
    if root is not None:
        try:
            from_root = os.path.relpath(name, root)
        except ValueError:  # on another drive of Windows
            from_root = os.pardir
        path = path if _is_outside(from_root) else from_root
    return path.replace(os.sep, "/")


def uri(path: str) -> tuple[str, bool]:
    """The URI of a file, and whether it is relative to the root of the repository."""
    from urllib.parse import quote

    if _is_outside(path):
        path = os.path.abspath(path).replace(os.sep, "/")
    is_relative = not os.path.isabs(path)
    # In a relative URI, a colon would end a scheme; in an absolute one it may stand behind a drive.
    safe = "/" if is_relative else "/:"
    try:
        # The bytes that the file system holds, also where they are no UTF-8.
        quoted = quote(path.encode("utf-8", "surrogateescape"), safe)
    except UnicodeEncodeError:
        quoted = quote(well_formed(path), safe)
    return (quoted, True) if is_relative else (f"file:///{quoted.lstrip('/')}", False)


class Fingerprints:
    """Names for problems that stay the same when lines are added above them; each is given once."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def of(self, diagnostic: Diagnostic, path: str) -> str:
        """The fingerprint of the next problem of the file at `path`."""
        found = fingerprint(diagnostic, path)
        repeat = self._counts[found] = self._counts.get(found, -1) + 1
        return fingerprint(diagnostic, path, repeat) if repeat else found


def fingerprint(diagnostic: Diagnostic, path: str, repeat: int = 0) -> str:
    """What stays of a problem when lines are added above it: file, code, place in the config, message.

    `repeat` counts those that are alike in all of these.
    """
    import hashlib

    # A message may name a line too: that of the key which is repeated.
    message = _LINE_NUMBER.sub("line", diagnostic.message)
    parts = [path, diagnostic.code, diagnostic.path, message, *([str(repeat)] if repeat else [])]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: a file name may hold bytes that are no text."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _is_outside(path: str) -> bool:
    return path.replace(os.sep, "/").split("/", 1)[0] == os.pardir
