"""From one value per item to one value, and what that is where there is nothing to count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from losskit.modules.checking import check_option

REDUCTIONS = ("mean", "sum", "none")
# Of losses with several values per sample, for which a peer divides by the number of samples.
WITH_BATCHMEAN = ("mean", "batchmean", "sum", "none")


def check_reduction(reduction: str, options: Sequence[str] = REDUCTIONS) -> str:
    """`reduction` itself.

    Raises:
        ValueError: it is none of the options.
    """
    check_option("reduction", reduction, options)
    return reduction


def masked(values: Tensor, valid: Tensor | None) -> Tensor:
    """`values`, 0 where the item does not count; without `valid`, all do."""
    return values if valid is None else torch.where(valid, values, torch.zeros_like(values))


def reduce(
    values: Tensor, reduction: str, *, count: Tensor | int | None = None, normalizer: Tensor | float | None = None
) -> Tensor:
    """The mean or the sum of `values`, or themselves; `batchmean` divides the sum by the number of samples.

    Args:
        values: one value per item, 0 for items that do not count; samples lie along the first axis.
        count: over how many items, or which sum of weights, the mean is; without it, all items.
        normalizer: what to divide by in place of `count`, such as the count of a whole batch of which this is a part.
    """
    if reduction == "none":
        _refuse(normalizer, reduction)
        return values
    if reduction == "batchmean":
        count = _num_samples(values)
    if reduction == "mean" and count is None and normalizer is None and values.numel():
        return values.mean()
    return reduce_sum(values.sum(), reduction, values.numel() if count is None else count, normalizer)


def reduce_sum(total: Tensor, reduction: str, count: Tensor | int, normalizer: Tensor | float | None) -> Tensor:
    """`reduce`, where the sum is known already; for `batchmean`, `count` is the number of samples."""
    if reduction == "sum":
        _refuse(normalizer, reduction)
        return total
    check_option("reduction", reduction, WITH_BATCHMEAN)
    return divide(total, count if normalizer is None else normalizer)


def divide(total: Tensor, count: Tensor | float) -> Tensor:
    """`total / count`, and 0 with a gradient of 0 where there is nothing to count.

    Raises:
        ValueError: the count is negative, or no single number.
    """
    if isinstance(count, Tensor):
        if count.numel() != 1:
            raise ValueError(f"normalizer= must be a single number, got a tensor of shape {tuple(count.shape)}")
        count = count.reshape(()).to(total.dtype)
        return total / torch.where(count == 0, math.inf, count)
    if count < 0:
        raise ValueError(f"normalizer= must be 0 or more, got {count}")
    return total * 0 if count == 0 else total / count


def _num_samples(values: Tensor) -> int:
    if values.ndim == 0:
        raise ValueError("the reduction is 'batchmean', but there is a single value without a batch")
    return len(values)


def _refuse(normalizer: Tensor | float | None, reduction: str) -> None:
    if normalizer is not None:
        raise ValueError(f"normalizer= takes the place of the mean's count, but the reduction is {reduction!r}")


def reduced_by_torch(
    torch_loss: Callable[[str], Tensor], items: Tensor, reduction: str, normalizer: Tensor | float | None
) -> Tensor:
    """One of torch's elementwise losses, which takes a reduction, with ours: torch's own sum saves passes.

    Args:
        torch_loss: gives one value per element of `items` for `none`, and their sum for `sum`.
        items: any tensor shaped like the values.
    """
    if reduction == "none":
        return reduce(torch_loss("none"), reduction, normalizer=normalizer)
    if reduction == "mean" and normalizer is None and items.numel():
        return torch_loss("mean")
    count = _num_samples(items) if reduction == "batchmean" else items.numel()
    return reduce_sum(torch_loss("sum"), reduction, count, normalizer)
