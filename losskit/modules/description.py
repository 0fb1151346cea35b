"""What a criterion did in its last step: which loss weighs how much, and whose gradient is the largest."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Tensors of so many numbers are kept; larger ones are known as long as somebody else keeps them.
_SMALL = 4096


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
    if isinstance(given, Tensor):
        return given.detach() if given.numel() <= _SMALL else weakref.ref(given)
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
        leaf = given.detach().requires_grad_()
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


def table(rows: Sequence[Row], title: str, note: str | None) -> str:
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
