"""What a criterion did in its last step: which loss weighs how much, and whose gradient is the largest."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from losskit.modules import sharing
from losskit.modules.balancing import balanced

if TYPE_CHECKING:
    from losskit.modules.multi_task import MultiTaskLoss

# Tensors of so many numbers are kept; larger ones are known as long as somebody else keeps them.
_SMALL = 4096


class LastStep(NamedTuple):
    """What a criterion was given last, as far as it is kept, and what came of it."""

    predictions: Any
    targets: Any
    normalizers: Mapping[str, Any] | None
    parts: Mapping[str, Tensor]
    present: Sequence[bool]


class Row(NamedTuple):
    """What is told of one loss; numbers are None where they are not known."""

    feature: str | None
    loss: str
    settings: str
    weight: float
    value: float | None = None
    share_of_total: float | None = None
    share_of_gradient: float | None = None


def kept(given: Any) -> Any:
    """What was given, in a form that keeps no large tensor alive and no graph."""
    if type(given) is dict:
        return {
            # Most often, and at no cost
            key: value if type(value) is Tensor and not value.requires_grad and value.numel() <= _SMALL else kept(value)
            for key, value in given.items()
        }
    if isinstance(given, Tensor):
        return weakref.ref(given) if given.numel() > _SMALL else given.detach()
    if isinstance(given, Mapping):
        return {key: kept(value) for key, value in given.items()}
    return given


def recalled(given: Any) -> Any:
    """What `kept` kept.

    Raises:
        LookupError: a tensor is gone.
    """
    if isinstance(given, weakref.ref):
        tensor = given()
        if tensor is None:
            raise LookupError
        return tensor
    if isinstance(given, Mapping):
        return {key: recalled(value) for key, value in given.items()}
    return given


def as_leaves(given: Any, leaves: list[Tensor]) -> Any:
    """The same, with floating-point tensors as leaves of a graph, which are appended to `leaves`."""
    if isinstance(given, Tensor) and given.is_floating_point():
        leaf = given.detach()
        leaf = (leaf.clone() if leaf.is_inference() else leaf).requires_grad_()
        leaves.append(leaf)
        return leaf
    if isinstance(given, Mapping):
        return {key: as_leaves(value, leaves) for key, value in given.items()}
    return given


def norm_of_gradient(value: Tensor, leaves: Sequence[Tensor]) -> float:
    """The norm of the gradient of a value with respect to all leaves together."""
    if not value.requires_grad or not leaves:
        return 0.0
    gradients = torch.autograd.grad(value, leaves, allow_unused=True, retain_graph=True)
    squares = [gradient.double().square().sum() for gradient in gradients if gradient is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def unusual_settings(module: nn.Module) -> str:
    """The settings of a loss that are not its defaults."""
    settings = getattr(module, "settings", None)
    found: Any = settings() if callable(settings) else settings
    if not isinstance(found, Mapping):
        return module.extra_repr()
    constants = getattr(module, "_constants", {})
    defaults = {name: p.default for name, p in inspect.signature(type(module).__init__).parameters.items()}
    shown = {name: constants.get(name, value) for name, value in found.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items() if not _is_same(value, defaults.get(name)))


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, Tensor) and type(value) is type(default) and value == default)


def shares(values: Iterable[float]) -> list[float | None]:
    """Each as a part of the sum of their sizes."""
    sizes = [abs(value) for value in values]
    total = sum(sizes)
    return [size / total if total else None for size in sizes]


_HEADINGS = ("feature", "loss", "settings", "weight", "value", "of total", "of gradient")


def description(criterion: MultiTaskLoss, predictions: Any = None, targets: Any = None) -> str:
    """The table of `MultiTaskLoss.describe`."""
    rows, note = _rows(criterion, predictions, targets)
    title = f"{len(rows)} loss{'es' * (len(rows) != 1)}, step {criterion.num_steps_done}"
    if criterion.balancing is not None:
        title += f", balanced by {criterion.balancing.name or type(criterion.balancing).__name__}"
    return _table(rows, title, note)


def _rows(criterion: MultiTaskLoss, predictions: Any, targets: Any) -> tuple[list[Row], str | None]:
    last = criterion.last_step
    if predictions is None and last is None:
        note = "no values are known yet; of compiled steps none are kept: describe(predictions, targets) computes them"
        return _told(criterion, list(criterion.weights.values())), note
    normalizers = None
    if predictions is None and last is not None:
        normalizers = last.normalizers
        try:
            predictions, targets = recalled(last.predictions), recalled(last.targets)
        except LookupError:
            note = "the predictions of the last step are gone; for shares of the gradient, pass some to describe()"
            values = [_sum_of(last.parts, key) for key in criterion.keys]
            return _told(criterion, _weights(criterion, values, last.present), values), note
    leaves: list[Tensor] = []
    predictions = as_leaves(predictions, leaves)
    modes = [(module, module.training) for module in criterion.modules()]
    criterion.eval()  # which changes no state, and waits for no other ranks
    try:
        with torch.inference_mode(False), torch.enable_grad():
            graphs, present = _graphs(criterion, predictions, targets, normalizers)
            values = [float(value.detach()) for value in graphs]
            weights = _weights(criterion, values, present)
            norms = [norm_of_gradient(x * weight, leaves) for x, weight in zip(graphs, weights, strict=True)]
    finally:
        for module, mode in modes:
            module.training = mode
    return _told(criterion, weights, values, norms), None


def _graphs(
    criterion: MultiTaskLoss, predictions: Any, targets: Any, normalizers: Any
) -> tuple[list[Tensor], list[bool]]:
    """The losses with their graphs, and which are there."""
    predictions, targets = criterion.checked(predictions, targets)
    values, present = [], []
    try:
        for plan, loss in zip(criterion.plans, criterion.losses, strict=True):
            if plan.shares:
                sharing.remember(plan.feature)
            value = criterion.value_of(plan, loss, predictions, targets, normalizers)
            present.append(value is not None)
            if isinstance(value, Mapping):
                value = sum(value.values())
            values.append(torch.zeros(()) if value is None else value)
    finally:
        sharing.forget()
    return values, present


def _weights(criterion: MultiTaskLoss, values: Sequence[float], present: Sequence[bool]) -> list[float]:
    """By how much the total grows with each loss."""
    weights = list(criterion.weights.values())
    if criterion.balancing is None:
        return weights
    leaves = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]
    was_training = criterion.balancing.training
    criterion.balancing.eval()
    try:
        with torch.enable_grad():
            total = balanced(criterion.balancing, leaves, weights, shared=criterion.shared, present=present)
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    finally:
        criterion.balancing.train(was_training)
    return [0.0 if gradient is None else float(gradient) for gradient in gradients]


def _sum_of(parts: Mapping[str, Tensor], key: str) -> float:
    if key in parts:
        return float(parts[key])
    return sum(float(value) for name, value in parts.items() if name.startswith(f"{key}/"))


def _told(
    criterion: MultiTaskLoss,
    weights: Sequence[float],
    values: Sequence[float] | None = None,
    norms: Sequence[float] | None = None,
) -> list[Row]:
    nothing = [None] * len(weights)
    of_total = shares(v * w for v, w in zip(values, weights, strict=True)) if values else nothing
    columns = (weights, values or nothing, of_total, shares(norms) if norms else nothing)
    return [
        Row(
            plan.feature,
            plan.key if plan.feature is None else plan.key.removeprefix(f"{plan.feature}/"),
            unusual_settings(loss),
            *numbers,
        )
        for plan, loss, *numbers in zip(criterion.plans, criterion.losses, *columns, strict=True)
    ]


def _table(rows: Sequence[Row], title: str, note: str | None) -> str:
    """The rows in columns, numbers to the right."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 3 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([title, lines[0], rule, *lines[1:], *([note] if note else [])])


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.feature or "-",
        row.loss,
        row.settings or "-",
        f"{row.weight:.4g}",
        "-" if row.value is None else f"{row.value:.4g}",
        _percent(row.share_of_total),
        _percent(row.share_of_gradient),
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
