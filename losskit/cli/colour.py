"""When to use colour, by the usual conventions, and how."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import TextIO

_CODES = {
    "error": "1;31",
    "warning": "1;33",
    "place": "1;34",
    "bold": "1",
    "cure": "32",
    "dim": "2",
    # The lines of a picture, in colours that can be read on dark and on light.
    **{f"line {index}": code for index, code in enumerate(("36", "33", "35", "32", "31", "34"), 1)},
}


class Colour:
    """Paints text if the stream, the environment and the user's choice say so."""

    def __init__(self, choice: str, stream: TextIO) -> None:
        self.is_on = choice == "always" or (choice == "auto" and _wanted(stream))

    def paint(self, text: str, style: str) -> str:
        """`text` in a style, or as it is."""
        return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if self.is_on and text else text


def _wanted(stream: TextIO) -> bool:
    environment = os.environ
    if environment.get("NO_COLOR"):
        return False
    if any(environment.get(variable, "0") not in ("", "0") for variable in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return stream.isatty() and environment.get("TERM") != "dumb"
