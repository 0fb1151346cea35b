"""The output formats of `losskit validate`: one module each, with a function `show`."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from losskit.cli.colour import Colour
from losskit.config import Document
from losskit.diagnostics import Diagnostic

FORMATS = ("full", "concise")


def formatter(name: str) -> Callable[[Diagnostic, Document, Colour], str]:
    """The function that turns one diagnostic into text."""
    show: Callable[[Diagnostic, Document, Colour], str] = importlib.import_module(f"{__name__}.{name}").show
    return show
