"""Draws a loss for its page: the value and the gradient as its one input moves."""

from __future__ import annotations

from losskit.cli.plotting import picture_of
from losskit.cli.plotting.svg import svg
from losskit.modules.contract import Subject
from losskit.modules.curves import NoCurveError, curve_of, sweep_of
from losskit.registry import LossEntry


def curve(entry: LossEntry) -> str | None:
    """The picture, or None where no single number moves the loss."""
    try:
        sweep = sweep_of(entry)
        points = curve_of(entry, Subject(entry).build(sweep.feature_type), sweep)
    except NoCurveError:
        return None
    return svg(picture_of({entry.name: points}, sweep.label))
