"""Batches with which a loss is tried: for each feature type, inputs and targets in the usual forms."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit import constants
from losskit.constants import ANOMALY_SCORE, ATTENTIONS, LOG_PROBABILITIES, PROBABILITIES, VARIANCE
from losskit.registry import LossEntry

# What `example_batch` returns: inputs and targets.
Example = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


class Sizes(NamedTuple):
    """How large a batch is, where its feature type leaves that open."""

    classes: int = 3
    dimensions: int = 5
    samples: int = 6
    # Of sequences and series, of images, and of sound
    steps: int = 4
    side: int = 4
    length: int = 16
    # The class id that targets never hold, for losses that have one.
    blank: int = 0


USUAL = Sizes()


class Batch(NamedTuple):
    """What a loss is called with: its inputs, then its targets, in the order of `forward`.

    An input of a loss that takes everything there is for its feature may be a mapping.
    """

    inputs: tuple[Tensor, ...]
    targets: tuple[Tensor, ...]


# Inputs of which not every number has a meaning.
BOUNDED_ROLES = (ANOMALY_SCORE, ATTENTIONS, LOG_PROBABILITIES, PROBABILITIES, VARIANCE)


def candidates(entry: LossEntry, feature_type: str, seed: int, sizes: Sizes = USUAL) -> Iterator[Batch]:
    """The usual batches of a feature type: inputs of one shape each, and targets in several forms.

    A class whose inputs or targets are unusual makes its own with `example_batch(feature_type, generator)`, which may
    take `sizes` as well.
    """
    example_batch: Any = getattr(entry.module.load(), "example_batch", None)
    if example_batch is not None:
        options = {"sizes": sizes} if takes_sizes(example_batch) else {}
        inputs, targets = example_batch(feature_type, generator_of(seed), **options)
        if not (isinstance(inputs, (tuple, list)) and isinstance(targets, (tuple, list))):
            raise TypeError("`example_batch` must return a tuple of inputs and a tuple of targets")
        yield Batch(tuple(inputs), tuple(targets))
        return
    for shape, kinds in _forms(feature_type, sizes):
        for kind in kinds:
            generator = generator_of(seed)
            inputs = tuple(_input(role, shape, feature_type, generator) for role in entry.inputs)
            yield Batch(inputs, tuple(_targets(kind, shape, sizes.classes, generator) for _ in entry.targets))
            if not entry.targets:
                break


def takes_sizes(example_batch: Callable[..., Any]) -> bool:
    """Whether a class's own batches follow the sizes."""
    try:
        return "sizes" in inspect.signature(example_batch).parameters
    except (TypeError, ValueError):
        return False


def _input(role: str, shape: tuple[int, ...], feature_type: str, generator: torch.Generator) -> Tensor:
    values = torch.randn(shape, generator=generator)
    if role == PROBABILITIES:
        return values.sigmoid()
    if role == LOG_PROBABILITIES:
        return values.log_softmax(-1 if feature_type in (constants.SEQUENCE, constants.TEXT) else 1)
    return values.abs() + 0.1 if role in (ANOMALY_SCORE, VARIANCE) else values


def _forms(feature_type: str, sizes: Sizes) -> list[tuple[tuple[int, ...], list[str]]]:
    n, c, d, steps, side = sizes.samples, sizes.classes, sizes.dimensions, sizes.steps, sizes.side
    forms: dict[str, list[tuple[tuple[int, ...], list[str]]]] = {
        constants.ANOMALY: [((n,), ["binary", "real"]), ((n, d), ["real"])],
        constants.AUDIO: [((n, sizes.length), ["real"])],
        constants.BINARY: [((n,), ["binary", "binary float"])],
        constants.CATEGORY: [((n, c), ["ids", "distribution"])],
        constants.CATEGORY_DISTRIBUTION: [((n, c), ["distribution"])],
        constants.IMAGE: [((n, c, side, side), ["ids", "real", "binary float"])],
        constants.NUMBER: [((n,), ["real", "positive"])],
        constants.SEQUENCE: [((n, steps, c), ["last ids"])],
        constants.SET: [((n, c), ["binary", "binary float"])],
        constants.TEXT: [((n, steps, c), ["last ids"])],
        constants.TIMESERIES: [((n, steps), ["real", "positive"])],
        constants.VECTOR: [((n, d), ["real", "positive", "ids"])],
    }
    return forms[feature_type]


def _targets(kind: str, shape: tuple[int, ...], num_classes: int, generator: torch.Generator) -> Tensor:
    if kind in ("ids", "last ids"):
        axis = 1 if kind == "ids" else len(shape) - 1
        return torch.randint(num_classes, (*shape[:axis], *shape[axis + 1 :]), generator=generator)
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
    return ", ".join(_described(x) for part in batch for x in part)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_described(inner)}" for key, inner in value.items()) + "}"
    return type(value).__name__


def tensors_of(values: Any) -> Iterator[Tensor]:
    """All tensors in a tensor, a tuple or a mapping of them."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list, Mapping)):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from tensors_of(value)


def changed(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same tensor, tuple or mapping, with each tensor changed."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, Mapping):
        return {key: changed(value, change) for key, value in values.items()}
    return tuple(changed(value, change) for value in values) if isinstance(values, (tuple, list)) else values


def leaves(batch: Batch) -> Batch:
    """The batch with copies of the inputs that ask for gradients."""
    return Batch(changed(batch.inputs, leaf), batch.targets)


def leaf(tensor: Tensor) -> Tensor:
    """A copy that asks for a gradient, where it can have one."""
    return tensor.detach().clone().requires_grad_(tensor.is_floating_point())


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating-point tensors in another dtype."""
    return Batch(*(changed(part, lambda x: x.to(dtype) if x.is_floating_point() else x) for part in batch))


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


def optional_forms(role: str, batch: Batch, sizes: Sizes, generator: torch.Generator) -> list[Any]:
    """What an optional input may look like beside a batch, the likeliest first."""
    first = next(tensors_of(batch.inputs), torch.zeros(sizes.samples))
    labels = next(tensors_of(batch.targets), first)
    n, last = _size(first, 0), _size(first, -1)
    floats = torch.rand(n, generator=generator) + 0.1
    known: dict[str, Callable[[], list[Any]]] = {
        "bias": lambda: [torch.randn(sizes.classes, generator=generator)],
        "features": lambda: [torch.randn(n, sizes.dimensions, generator=generator)],
        "input_lengths": lambda: [torch.full((n,), _size(first, 1))],
        "points": lambda: [torch.randn(n, sizes.dimensions, generator=generator)],
        "score_function": lambda: [lambda points: points.square().flatten(1).sum(1)],
        "target_lengths": lambda: [torch.full((n,), max(1, _size(labels, 1) // 2))],
        "temperature": lambda: [torch.tensor(0.5)],
        "weight": lambda: [torch.randn(sizes.classes, last, generator=generator), floats],
        constants.TARGETS: lambda: [torch.arange(n) % 2],
    }
    if role in known:
        return known[role]()
    if "mask" in role:
        masks = [torch.ones(shape, dtype=torch.bool) for shape in (first.shape[:-1], labels.shape, (n,)) if shape]
        for mask in masks:
            mask[-1] = False  # the last sample does not count
        return [*masks, *(mask.float() for mask in masks)]
    if "len" in role:
        return [torch.full((n,), _size(labels, 1))]
    alike = torch.rand(first.shape, generator=generator) + 0.1
    return [floats, alike, torch.rand(labels.shape, generator=generator) + 0.1, torch.tensor(0.5)]


def _size(tensor: Tensor, axis: int) -> int:
    """The size of an axis, 1 where there is none."""
    return tensor.shape[axis] if tensor.dim() > max(axis, 0) else 1
