"""What a project says about itself: the table `[tool.losskit]` of its pyproject.toml."""

from __future__ import annotations

import os
import re
import sys

from losskit.cli import CannotRunError, import_plugins
from losskit.cli.files import DEFAULT_EXCLUDE

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from losskit.cli.silencing import Selection

_MAY_HAVE_TABLE = re.compile(rb"""tool\s*["']?\s*\.\s*["']?losskit|^\s*["']?losskit["']?\s*[.=]""", re.MULTILINE)
# The keys, and whether each holds a list of texts or one text.
KEYS = {"exclude": list, "plugins": list, "select": list, "ignore": list, "at": str}


class Project:
    """The settings of the project, and the file that they come from; without one, none."""

    def __init__(self, settings: dict[str, Any], file: str | None = None) -> None:
        self.settings = settings
        self.file = file

    def plugins(self, given: Sequence[str]) -> list[str]:
        """The plugins of the project, and those that are given on the command line."""
        return [*self.settings.get("plugins", ()), *given]

    def import_plugins(self, given: Sequence[str]) -> None:
        """Imports them; those of the project may stand beside its pyproject.toml.

        Raises:
            CannotRunError: one of them fails.
        """
        folder = os.path.dirname(os.path.abspath(self.file)) if self.file else None
        import_plugins(self.plugins(given), [folder] if folder else [])

    def selection(self, select: Sequence[str] | None = None, ignore: Sequence[str] | None = None) -> Selection | None:
        """The codes that are shown, where not all are; what is given counts before what the project says.

        Raises:
            CannotRunError: no code begins so.
        """
        select = self.settings.get("select") if select is None else select
        ignore = self.settings.get("ignore") if ignore is None else ignore
        if select is None and ignore is None:
            return None
        from losskit.cli.silencing import Selection

        return Selection(select, ignore)

    def excluded(self, given: Sequence[str] | None = None) -> Sequence[str]:
        """The patterns of what is left out: those given, or the project's, or the usual ones."""
        patterns = given or self._patterns()
        return DEFAULT_EXCLUDE if patterns is None else patterns

    def _patterns(self) -> list[str] | None:
        """`exclude`; patterns with a `/` are relative to the project's folder, as everywhere in such a file."""
        patterns: list[str] | None = self.settings.get("exclude")
        root = os.path.dirname(self.file or "")
        if not patterns or not root or os.path.abspath(root) == os.getcwd():
            return patterns
        return [os.path.relpath(os.path.join(root, p)) if "/" in p.rstrip("/") else p for p in patterns]


def read_project() -> Project:
    """Looks for the table in the pyproject.toml of the working folder, or else of the nearest folder above it.

    Raises:
        CannotRunError: the file is no TOML, or the table is wrong.
    """
    folder = os.getcwd()
    while True:
        file = os.path.join(folder, "pyproject.toml")
        try:
            with open(file, "rb") as stream:
                source = stream.read()
        except OSError:
            source = b""
        # Most projects have no such table, and to parse the rest takes a fifth of the time of checking a file.
        if _MAY_HAVE_TABLE.search(source) and (table := _table(source, os.path.relpath(file))) is not None:
            return Project(table, os.path.relpath(file))
        above = os.path.dirname(folder)
        if above == folder:
            return Project({})
        folder = above


def _table(source: bytes, file: str) -> dict[str, Any] | None:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tools = tomllib.loads(source.decode("utf-8")).get("tool", {})
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CannotRunError(f"{file} is not valid TOML: {error}") from None
    table = tools.get("losskit") if isinstance(tools, dict) else None
    if table is None:
        return None
    if not isinstance(table, dict):
        raise CannotRunError(f"{file}: [tool.losskit] must be a table")
    for key, value in table.items():
        if key not in KEYS:
            from losskit.spelling import nearest

            near = nearest(key, KEYS)
            cure = f"did you mean `{near[0]}`?" if near else f"it may have {', '.join(KEYS)}"
            raise CannotRunError(f"{file}: [tool.losskit] has no key `{key}`; {cure}")
        texts = [value] if KEYS[key] is str else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            what = "text" if KEYS[key] is str else "a list of texts"
            raise CannotRunError(f"{file}: `{key}` of [tool.losskit] must be {what}, got {value!r}")
    return dict(table)
