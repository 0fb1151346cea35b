"""Draws a loss as its one input moves: the value and the gradient, as an SVG picture.

The numbers are rounded to tenths of a pixel, so that a picture is the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from losskit import constants
from losskit.modules.contract import Subject, total_of
from losskit.registry import LossEntry

STEPS = 160
WIDTH, HEIGHT, LEFT, TOP = 360, 200, 50, 16
COLOURS = {"value": "#2a6fdb", "gradient": "#d9822b"}


class Sweep(NamedTuple):
    """What moves from `low` to `high`, and what the loss is called with at each place."""

    label: str
    low: float
    high: float
    arguments: Callable[[Tensor], tuple[Tensor, ...]]


def _scores(x: Tensor) -> Tensor:
    """Logits of three classes, of which the first moves."""
    return torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)]).unsqueeze(0)


def _number(target: float) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda x: (x.reshape(1), torch.full((1,), target, dtype=x.dtype))


_FIRST = torch.zeros(1, dtype=torch.long)
_ONLY_FIRST = torch.tensor([[1.0, 0.0, 0.0]])
_CLASS = "logit of the right class, beside two logits of 0"
_SWEEPS = {
    constants.NUMBER: Sweep("prediction; the target is 1", -2, 4, _number(1.0)),
    constants.BINARY: Sweep("logit; the label is yes", -6, 6, _number(1.0)),
    constants.CATEGORY: Sweep(_CLASS, -6, 6, lambda x: (_scores(x), _FIRST)),
    constants.SET: Sweep(
        "logit of the one label that applies, beside two of 0", -6, 6, lambda x: (_scores(x), _ONLY_FIRST)
    ),
    constants.CATEGORY_DISTRIBUTION: Sweep(_CLASS, -6, 6, lambda x: (_scores(x), _ONLY_FIRST)),
    constants.IMAGE: Sweep(_CLASS, -6, 6, lambda x: (_scores(x)[..., None, None], _FIRST[:, None, None])),
    constants.SEQUENCE: Sweep(
        _CLASS, -6, 6, lambda x: (_scores(x).unsqueeze(1).expand(1, 2, 3), torch.zeros(1, 2, dtype=torch.long))
    ),
    constants.ANOMALY: Sweep("squared distance; no anomaly", 0, 4, _number(0.0)),
}


# Where the first logit is not that of the right class.
_LABELS = {"corn": "logit of the first question, is it above class 0; it is not"}


def curve(entry: LossEntry) -> str | None:
    """The picture, or None where no single number moves the loss."""
    compares_samples = not entry.targets and hasattr(entry.module.load(), "example_batch")
    if len(entry.inputs) != 1 or len(entry.targets) > 1 or compares_samples:
        return None
    for feature_type, sweep in _SWEEPS.items():
        if feature_type in entry.feature_types:
            adapted = _adapted(sweep, entry.inputs[0])
            try:
                points = _points(entry, feature_type, adapted)
            except (TypeError, ValueError):
                return None
            if entry.name in _LABELS:
                adapted = adapted._replace(label=_LABELS[entry.name])
            return _svg(entry.name, adapted, *points) if max(points[1]) > min(points[1]) else None
    return None


def _adapted(sweep: Sweep, role: str) -> Sweep:
    """The sweep for what the loss takes in place of logits."""
    if role == constants.PROBABILITIES:
        return sweep._replace(label=sweep.label.replace("logit", "probability"), low=0.05, high=1)
    if role == constants.LOG_PROBABILITIES:
        label = sweep.label.replace("logit", "logit before the softmax", 1)

        def arguments(x: Tensor) -> tuple[Tensor, ...]:
            scores, *targets = sweep.arguments(x)
            return (scores.log_softmax(1), *targets)

        return sweep._replace(label=label, arguments=arguments)
    return sweep


def _points(entry: LossEntry, feature_type: str, sweep: Sweep) -> tuple[list[float], list[float], list[float]]:
    module = Subject(entry).build(feature_type).double()
    places = torch.linspace(sweep.low, sweep.high, STEPS + 1, dtype=torch.float64).tolist()
    values, gradients = [], []
    for place in places:
        x = torch.tensor(place, dtype=torch.float64, requires_grad=True)
        value = total_of(module(*sweep.arguments(x)[: len(entry.inputs) + len(entry.targets)]))
        (gradient,) = torch.autograd.grad(value, x)
        values.append(value.item())
        gradients.append(gradient.item())
    return places, values, gradients


def _svg(name: str, sweep: Sweep, places: list[float], values: list[float], gradients: list[float]) -> str:
    low, high = min(*values, *gradients, 0.0), max(*values, *gradients)
    high = high if high > low else low + 1

    def x_of(x: float) -> float:
        return round(LEFT + (x - sweep.low) / (sweep.high - sweep.low) * WIDTH, 1)

    def y_of(y: float) -> float:
        return round(TOP + (high - y) / (high - low) * HEIGHT, 1)

    def line(numbers: list[float]) -> str:
        return " ".join(f"{x_of(x)},{y_of(y)}" for x, y in zip(places, numbers, strict=True))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 20} {TOP + HEIGHT + 58}" width="430" '
        'font-family="sans-serif" font-size="12" fill="#808080">',
        f"<title>{name}: value and gradient</title>",
        f'<path d="M{LEFT} {TOP}V{TOP + HEIGHT}M{LEFT} {y_of(0)}H{LEFT + WIDTH}" stroke="#808080" fill="none"/>',
    ]
    ticks = [number for number in (low, high) if abs(y_of(number) - y_of(0)) > 12]  # as high as a digit
    for number in [*ticks, 0.0]:
        parts.append(f'<text x="{LEFT - 6}" y="{y_of(number) + 4}" text-anchor="end">{number:.3g}</text>')
    for number in (sweep.low, (sweep.low + sweep.high) / 2, sweep.high):
        parts.append(f'<text x="{x_of(number)}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{number:.2g}</text>')
    parts.append(f'<text x="{LEFT + WIDTH // 2}" y="{TOP + HEIGHT + 36}" text-anchor="middle">{sweep.label}</text>')
    for index, (what, numbers) in enumerate((("value", values), ("gradient", gradients))):
        dashes = ' stroke-dasharray="5 3"' if index else ""
        parts.append(
            f'<polyline points="{line(numbers)}" fill="none" stroke="{COLOURS[what]}" stroke-width="2"{dashes}/>'
        )
        x, y = LEFT + WIDTH // 2 - 90 + 110 * index, TOP + HEIGHT + 50
        parts.append(f'<path d="M{x} {y}h24" stroke="{COLOURS[what]}" stroke-width="2"{dashes}/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4}">{what}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
