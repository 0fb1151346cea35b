"""Curves of losses: the value and the gradient as a loss's one input moves, where a single number can move it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from losskit import constants
from losskit.modules.contract import total_of
from losskit.registry import LossEntry

STEPS = 160


class NoCurveError(ValueError):
    """No single number moves the loss, or not this number; the message says why."""


class Sweep(NamedTuple):
    """What moves from `low` to `high`, and what the loss is called with at each place."""

    feature_type: str
    label: str
    low: float
    high: float
    arguments: Callable[[Tensor], tuple[Tensor, ...]]


class Curve(NamedTuple):
    """The value and the gradient of a loss at each place of its input."""

    places: list[float]
    values: list[float]
    gradients: list[float]


def _scores(x: Tensor) -> Tensor:
    """Logits of three classes, of which the first moves."""
    return torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)]).unsqueeze(0)


def _number(target: float) -> Callable[[Tensor], tuple[Tensor, ...]]:
    return lambda x: (x.reshape(1), torch.full((1,), target, dtype=x.dtype))


def _step(x: Tensor) -> tuple[Tensor, ...]:
    """Two steps of a sequence with the same logits, for some losses leave out the first or the last."""
    return _scores(x).unsqueeze(1).expand(1, 2, 3), torch.zeros(1, 2, dtype=torch.long)


_FIRST = torch.zeros(1, dtype=torch.long)
_ONLY_FIRST = torch.tensor([[1.0, 0.0, 0.0]])
_CLASS = "logit of the right class, beside two logits of 0"
_LABEL = "logit of the one label that applies, beside two of 0"
_ERROR = "prediction; the target is 1"
# A loss for several feature types is drawn for the first of these.
_SWEEPS = {
    sweep.feature_type: sweep
    for sweep in (
        Sweep(constants.NUMBER, _ERROR, -2, 4, _number(1.0)),
        Sweep(constants.BINARY, "logit; the label is yes", -6, 6, _number(1.0)),
        Sweep(constants.CATEGORY, _CLASS, -6, 6, lambda x: (_scores(x), _FIRST)),
        Sweep(constants.SET, _LABEL, -6, 6, lambda x: (_scores(x), _ONLY_FIRST)),
        Sweep(constants.CATEGORY_DISTRIBUTION, _CLASS, -6, 6, lambda x: (_scores(x), _ONLY_FIRST)),
        Sweep(constants.IMAGE, _CLASS, -6, 6, lambda x: (_scores(x)[..., None, None], _FIRST[:, None, None])),
        Sweep(constants.SEQUENCE, _CLASS, -6, 6, _step),
        Sweep(constants.TEXT, _CLASS, -6, 6, _step),
        Sweep(constants.ANOMALY, "squared distance; no anomaly", 0, 4, _number(0.0)),
        *(
            Sweep(kind, _ERROR, -2, 4, lambda x: (x.reshape(1, 1), torch.ones(1, 1, dtype=x.dtype)))
            for kind in (constants.TIMESERIES, constants.VECTOR, constants.AUDIO)
        ),
    )
}
# Where the first logit is not that of the right class.
_LABELS = {"corn": "logit of the first question, is it above class 0; it is not"}


def sweep_of(entry: LossEntry, feature_type: str | None = None) -> Sweep:
    """What moves the loss, for a feature type or for the first that has a sweep.

    Raises:
        NoCurveError: no single number moves it.
    """
    if feature_type is not None and feature_type not in entry.feature_types:
        raise NoCurveError(f"{entry.name} is a loss for {', '.join(entry.feature_types)}, not for {feature_type}")
    if len(entry.inputs) != 1 or len(entry.targets) > 1:
        raise NoCurveError(
            f"no single number moves {entry.name}: it takes {', '.join((*entry.inputs, *entry.targets))}"
        )
    if not entry.targets and hasattr(entry.module.load(), "example_batch"):
        raise NoCurveError(f"no single number moves {entry.name}: it compares the samples of a batch with each other")
    for kind, sweep in _SWEEPS.items():
        if kind in entry.feature_types and feature_type in (kind, None):
            adapted = _adapted(_of_a_pixel(entry) if kind == constants.IMAGE else sweep, entry.inputs[0])
            return adapted._replace(label=_LABELS.get(entry.name, adapted.label))
    raise NoCurveError(f"no single number moves {entry.name}, a loss for {', '.join(entry.feature_types)}")


def common_sweeps(entries: Sequence[LossEntry], feature_type: str | None = None) -> list[Sweep]:
    """What moves each of the losses: the same input, for a feature type that all of them have where there is one.

    Raises:
        NoCurveError: they have no input in common; the message has that of each.
    """
    usual = [sweep_of(entry, feature_type) for entry in entries]
    for kind in _SWEEPS:
        if feature_type in (kind, None) and all(kind in entry.feature_types for entry in entries):
            sweeps = [sweep_of(entry, kind) for entry in entries]
            if len({sweep.label for sweep in sweeps}) == 1:
                return sweeps
    if len({sweep.label for sweep in usual}) == 1:
        return usual
    lines = {f"\n  {entry.name}: {sweep.label}" for entry, sweep in zip(entries, usual, strict=True)}
    raise NoCurveError(f"these losses have different inputs, so one picture cannot hold them:{''.join(sorted(lines))}")


def _of_a_pixel(entry: LossEntry) -> Sweep:
    """The sweep of an image of one pixel, which has a class, unless the loss is for numbers or yes and no."""
    kinds = (constants.CATEGORY, constants.NUMBER, constants.BINARY)
    kind = next((kind for kind in kinds if kind in entry.feature_types), constants.CATEGORY)
    if kind == constants.CATEGORY:
        return _SWEEPS[constants.IMAGE]
    sweep = _SWEEPS[kind]
    return sweep._replace(
        feature_type=constants.IMAGE, arguments=lambda x: tuple(t.reshape(1, 1, 1) for t in sweep.arguments(x))
    )


def _adapted(sweep: Sweep, role: str) -> Sweep:
    """The sweep for what the loss takes in place of logits."""
    if role == constants.PROBABILITIES:
        return sweep._replace(label=sweep.label.replace("logit", "probability"), low=0.05, high=1)
    if role == constants.LOG_PROBABILITIES:
        label = sweep.label.replace("logit", "logit before the softmax", 1)

        class_axis = -1 if sweep.feature_type in (constants.SEQUENCE, constants.TEXT) else 1

        def arguments(x: Tensor) -> tuple[Tensor, ...]:
            scores, *targets = sweep.arguments(x)
            return (scores.log_softmax(class_axis), *targets)

        return sweep._replace(label=label, arguments=arguments)
    return sweep


def curve_of(entry: LossEntry, module: nn.Module, sweep: Sweep) -> Curve:
    """The curve of a loss that was built for the sweep's feature type.

    Raises:
        NoCurveError: the loss refuses the input, does not move with it, or is not finite.
    """
    module = module.double()
    places = torch.linspace(sweep.low, sweep.high, STEPS + 1, dtype=torch.float64).tolist()
    values, gradients = [], []
    for place in places:
        x = torch.tensor(place, dtype=torch.float64, requires_grad=True)
        try:
            value = total_of(module(*sweep.arguments(x)[: len(entry.inputs) + len(entry.targets)]))
            (gradient,) = torch.autograd.grad(value, x)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            if hasattr(entry.module.load(), "example_batch"):
                raise NoCurveError(
                    f"no single number moves {entry.name}: its batches have a form of their own"
                ) from error
            raise NoCurveError(f"{entry.name} does not take the input that moves ({sweep.label}): {error}") from error
        values.append(value.item())
        gradients.append(gradient.item())
    if not all(map(math.isfinite, (*values, *gradients))):
        raise NoCurveError(f"{entry.name} is not finite everywhere between {sweep.low:g} and {sweep.high:g}")
    if max(values) == min(values):
        raise NoCurveError(f"{entry.name} stays the same wherever its input moves ({sweep.label})")
    if max(map(abs, gradients)) * (sweep.high - sweep.low) < 1e-3 * (max(values) - min(values)):
        raise NoCurveError(f"{entry.name} has no slope: it only jumps as its input moves ({sweep.label})")
    return Curve(places, values, gradients)
