"""Batches with which a loss is tried: for each feature type, inputs and targets in the usual forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit import constants
from losskit.constants import ANOMALY_SCORE, ATTENTIONS, LOG_PROBABILITIES, PROBABILITIES, VARIANCE
from losskit.registry import LossEntry

SAMPLES, CLASSES, STEPS, DIMENSIONS, SIDE = 6, 3, 4, 5, 4


class Batch(NamedTuple):
    """What a loss is called with: its inputs, then its targets, in the order of `forward`."""

    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]


# Inputs of which not every number has a meaning.
BOUNDED_ROLES = (ANOMALY_SCORE, ATTENTIONS, LOG_PROBABILITIES, PROBABILITIES, VARIANCE)


def candidates(entry: LossEntry, feature_type: str, seed: int) -> Iterator[Batch]:
    """The usual batches of a feature type: inputs of one shape each, and targets in several forms.

    A class whose inputs or targets are unusual makes its own with `example_batch(feature_type, generator)`.
    """
    example_batch: Any = getattr(entry.module.load(), "example_batch", None)
    if example_batch is not None:
        yield Batch(*example_batch(feature_type, generator_of(seed)))
        return
    for shape, kinds in _forms(feature_type):
        for kind in kinds if len(entry.targets) == 1 else kinds[:1]:
            generator = generator_of(seed)
            inputs = tuple(_input(role, shape, feature_type, generator) for role in entry.inputs)
            if len(entry.targets) <= 1:
                yield Batch(inputs, tuple(_targets(kind, shape, generator) for _ in entry.targets))


def _input(role: str, shape: tuple[int, ...], feature_type: str, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if role == PROBABILITIES:
        return values.sigmoid()
    if role == LOG_PROBABILITIES:
        return values.log_softmax(-1 if feature_type in (constants.SEQUENCE, constants.TEXT) else 1)
    return values.abs() + 0.1 if role in (ANOMALY_SCORE, VARIANCE) else values


def _forms(feature_type: str) -> list[tuple[tuple[int, ...], list[str]]]:
    n, c = SAMPLES, CLASSES
    forms: dict[str, list[tuple[tuple[int, ...], list[str]]]] = {
        constants.ANOMALY: [((n,), ["binary", "real"]), ((n, DIMENSIONS), ["real"])],
        constants.AUDIO: [((n, 16), ["real"])],
        constants.BINARY: [((n,), ["binary", "binary float"])],
        constants.CATEGORY: [((n, c), ["ids"])],
        constants.CATEGORY_DISTRIBUTION: [((n, c), ["distribution"])],
        constants.IMAGE: [((n, c, SIDE, SIDE), ["ids", "real", "binary float"])],
        constants.NUMBER: [((n,), ["real", "positive"])],
        constants.SEQUENCE: [((n, STEPS, c), ["last ids"])],
        constants.SET: [((n, c), ["binary", "binary float"])],
        constants.TEXT: [((n, STEPS, c), ["last ids"])],
        constants.TIMESERIES: [((n, STEPS), ["real", "positive"])],
        constants.VECTOR: [((n, DIMENSIONS), ["real", "positive"])],
    }
    return forms[feature_type]


def _targets(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if kind in ("ids", "last ids"):
        axis = 1 if kind == "ids" else len(shape) - 1
        return torch.randint(CLASSES, (*shape[:axis], *shape[axis + 1 :]), generator=generator)
    if kind in ("binary", "binary float"):
        labels = torch.randint(2, shape, generator=generator)
        return labels.float() if kind == "binary float" else labels
    if kind == "distribution":
        return torch.randn(shape, generator=generator).softmax(1)
    values = torch.randn(shape, generator=generator)
    return values.abs() if kind == "positive" else values


def generator_of(seed: int) -> torch.Generator:
    """A source of random numbers of its own, so that nothing global is touched."""
    return torch.Generator().manual_seed(seed)


def describe(batch: Batch) -> str:
    """Dtypes and shapes."""
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for part in batch for x in part)


def leaves(batch: Batch) -> Batch:
    """The batch with copies of the inputs that ask for gradients."""
    inputs = (x.detach().clone() for x in batch.inputs)
    return Batch(tuple(x.requires_grad_() if x.is_floating_point() else x for x in inputs), batch.targets)


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating-point tensors in another dtype."""
    parts = (tuple(x.to(dtype) if x.is_floating_point() else x for x in part) for part in batch)
    return Batch(*parts)


def fitted(batch: Batch) -> Batch | None:
    """The batch with predictions that are as good as they can be, where the targets say what that is."""
    if len(batch.inputs) != 1 or len(batch.targets) != 1:
        return Batch(tuple(batch.inputs[0] for _ in batch.inputs), ()) if not batch.targets else None
    predictions, targets = batch.inputs[0], batch.targets[0]
    if targets.is_floating_point() and targets.shape == predictions.shape:
        return Batch((targets.clone(),), batch.targets)
    if targets.shape == predictions.shape:
        return Batch((200.0 * (2 * targets.float() - 1),), batch.targets)
    axis = 1 if targets.shape == predictions.shape[:1] + predictions.shape[2:] else -1
    if targets.is_floating_point() or targets.shape != predictions.select(axis, 0).shape:
        return None
    certain = torch.full_like(predictions, -200.0).scatter(axis, targets.unsqueeze(axis), 200.0)
    return Batch((certain,), batch.targets)
