"""Pictures of curves: what is in them, whatever they are drawn with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from losskit.modules.curves import Curve

VALUE, GRADIENT, BOTH = "value", "gradient", "both"
# Lines differ by colour and, for those who see or print no colours, by dashes: lengths of strokes and gaps, in pixels.
COLOURS = ("#2a6fdb", "#d9822b", "#2e9e5b", "#b5459b", "#c43d3d", "#6b6f76")
DASHES: tuple[tuple[int, ...], ...] = ((), (5, 3), (2, 2), (9, 3, 2, 3))


class Line(NamedTuple):
    """One line of a picture; `style` says which colour and dashes it has."""

    label: str
    numbers: Sequence[float]
    style: int


class Panel(NamedTuple):
    """Lines on the same scale."""

    title: str
    lines: Sequence[Line]

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the largest number; 0 is always within."""
        numbers = [number for line in self.lines for number in line.numbers]
        low, high = min(*numbers, 0.0), max(*numbers, 0.0)
        return low, high if high > low else low + 1


class Picture(NamedTuple):
    """Panels above each other, over the same places of the input."""

    title: str
    input_label: str
    places: Sequence[float]
    panels: Sequence[Panel]

    @property
    def legend(self) -> list[Line]:
        """The lines of all panels, each label once."""
        return list({line.label: line for panel in self.panels for line in panel.lines}.values())


def picture_of(curves: Mapping[str, Curve], input_label: str, what: str = BOTH) -> Picture:
    """The picture of one loss's value and gradient on one scale, or of several losses, with a panel for each."""
    places = next(iter(curves.values())).places
    shown = (VALUE, GRADIENT) if what == BOTH else (what,)
    title = f"{', '.join(curves)}: {' and '.join(shown)}"
    if len(curves) == 1 and what == BOTH:
        ((label, curve),) = curves.items()
        lines = [Line(each, _numbers(curve, each), style) for style, each in enumerate(shown)]
        return Picture(title, input_label, places, [Panel(label, lines)])
    panels = [
        Panel(each, [Line(label, _numbers(curve, each), style) for style, (label, curve) in enumerate(curves.items())])
        for each in shown
    ]
    return Picture(title, input_label, places, panels)


def _numbers(curve: Curve, what: str) -> list[float]:
    return curve.values if what == VALUE else curve.gradients


def ticks(low: float, high: float, most: int) -> dict[float, str]:
    """Round numbers from `low` to `high`, at most so many, and how they are written."""
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    is_usual = 1e-3 <= step < 1e5
    # Adding 0 makes 0 of -0.
    numbers = (round(index * step, digits) + 0 for index in range(first, last + 1))
    return {number: f"{number:.{digits}f}" if is_usual else f"{number:g}" for number in numbers}
