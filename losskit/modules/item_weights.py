"""Which items of a batch count, and how much: the `mask` and `sample_weight` of a feature, and labels that are missing.

An item that does not count may hold anything, NaN too: its inputs and targets are replaced before the loss sees them,
for 0 times a gradient of NaN is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losskit.constants import EVERYTHING, PROBABILITIES, VARIANCE
from losskit.modules.base import AdditiveLoss, ClassAxisMixin
from losskit.modules.lookup import Given, Lookup
from losskit.modules.reduction import divide
from losskit.modules.shapes import require_real, require_tensor

MASK, SAMPLE_WEIGHT = "mask", "sample_weight"
# With what inputs of items that do not count are replaced, where 0 has no meaning.
_HARMLESS = {VARIANCE: 1.0, PROBABILITIES: 0.5}


class ItemWeights(NamedTuple):
    """What a batch says about the items of a feature."""

    mask: Tensor | None
    sample_weight: Tensor | None
    missing: bool  # whether targets that are NaN are missing

    @property
    def says_nothing(self) -> bool:
        return self.mask is None and self.sample_weight is None and not self.missing


def weights_of(lookup: Lookup, targets: Mapping[Any, Any], missing: bool) -> ItemWeights:
    """What the targets say about the items of a loss's feature, but for what the loss takes itself."""
    given = targets.get(lookup.feature)
    if not isinstance(given, Mapping) or EVERYTHING in lookup.targets:
        return ItemWeights(None, None, missing)
    found = {}
    for name in (MASK, SAMPLE_WEIGHT):
        is_its_own = name in lookup.optional_targets or name in lookup.targets
        tensor = None if is_its_own else given.get(name)
        if tensor is not None:
            require_tensor(tensor, name)
            require_real(tensor, name)
        found[name] = tensor
    return ItemWeights(found[MASK], found[SAMPLE_WEIGHT], missing)


def weighted(loss: nn.Module, lookup: Lookup, given: Given, items: ItemWeights, normalizer: Any) -> Any:
    """The value of a loss whose items are masked or weighted: a sum over the weighted count, or over `normalizer`.

    An item of weight 2 is that item twice, one of weight 0 is not there.

    Raises:
        TypeError: the loss is no sum over items, and cannot leave any out.
        ValueError: the shapes of the weights do not fit.
    """
    if not isinstance(loss, AdditiveLoss):
        return _of_the_others(loss, given, items)
    prepared, weights = _prepared(loss, lookup, given, items)
    values = loss.item_values(*prepared.inputs, *prepared.targets, **prepared.optional)
    weights = loss.item_weights(weights)
    factors = _aligned(weights, values, loss).to(values.dtype)
    total = torch.where(factors != 0, values * factors, torch.zeros_like(values)).sum()
    if loss.reduction == "sum":
        return total
    if normalizer is None:
        normalizer = _sum_of_counts(loss, lookup, prepared, weights)
        normalizer = normalizer.clamp_min(loss.least_count) if loss.least_count else normalizer
    return divide(total, normalizer)


def weighted_count(loss: AdditiveLoss, lookup: Lookup, given: Given, items: ItemWeights) -> Tensor:
    """The count of a batch whose items are masked or weighted; without limit from below."""
    if items.says_nothing:
        counts = _item_counts(loss, lookup, given)
        # One number for all needs no adding up.
        return counts.sum() if any(counts.stride()) else counts.numel() * _first(counts)
    prepared, weights = _prepared(loss, lookup, given, items)
    if not lookup.targets and not given.inputs:
        return weights.sum()  # such as triplets, of which each has one
    return _sum_of_counts(loss, lookup, prepared, loss.item_weights(weights))


def _first(counts: Tensor) -> Tensor:
    return counts.as_strided((), ()) if counts.numel() else counts.sum()


def _item_counts(loss: AdditiveLoss, lookup: Lookup, given: Given) -> Tensor:
    optional = {name: value for name, value in given.optional.items() if name in lookup.optional_targets}
    counts = loss.item_counts(*given.targets, inputs=given.inputs, **optional)
    if loss.reduction != "batchmean":
        return counts
    # Each sample counts once, whatever the number of its items.
    return counts / max(math.prod(counts.shape[1:]), 1)


def _sum_of_counts(loss: AdditiveLoss, lookup: Lookup, given: Given, weights: Tensor) -> Tensor:
    """The sum of the counts of all items in proportion to their weights."""
    counts = _item_counts(loss, lookup, given)
    return (counts * _aligned(weights, counts, loss)).sum()


def _prepared(loss: AdditiveLoss, lookup: Lookup, given: Given, items: ItemWeights) -> tuple[Given, Tensor]:
    """What the loss is called with, harmless where an item does not count, and the weights of the items."""
    weights = _combined(loss, given, items)
    valid, has_value = weights != 0, loss.item_weights(weights) != 0
    inputs = [
        _replaced(tensor, has_value, loss, _HARMLESS.get(role, 0.0), loss.sample_axis)
        for role, tensor in zip(lookup.inputs, given.inputs, strict=False)
    ]
    targets = given.targets
    optional = {
        # Such as lengths, if it is samples that do not count.
        name: _replaced(value, valid, loss, 0)
        if name in lookup.optional_targets and value.ndim >= valid.ndim
        else value
        for name, value in given.optional.items()
    }
    if items.missing and targets and _are_ids(given, loss):
        targets = [targets[0].nan_to_num(0).long()]
    targets = [_replaced(tensor, valid, loss, loss.harmless_target) for tensor in targets]
    return Given(inputs, targets, optional), weights


def _combined(loss: AdditiveLoss, given: Given, items: ItemWeights) -> Tensor:
    """One weight per item, 0 where it does not count, as far as the mask and the weights have axes."""
    parts = [tensor for tensor in (items.mask, items.sample_weight) if tensor is not None]
    if items.mask is not None:
        parts[0] = items.mask != 0
    if items.missing and len(given.targets) == 1 and given.targets[0].is_floating_point():
        parts.append(_is_there(given, loss))
    if not parts:  # labels that are integers are never missing
        like = (given.targets or given.inputs)[0]
        return torch.ones(like.shape[:1], device=like.device)
    num_axes = max([part.ndim for part in parts])
    weights = next(part for part in parts if part.ndim == num_axes)
    for part in parts:
        if part is not weights:
            weights = weights * _aligned(part, weights, loss)
    return weights.float() if weights.dtype == torch.bool else weights


def _is_there(given: Given, loss: AdditiveLoss) -> Tensor:
    """Which items have a label: of several numbers, all of them."""
    (targets,) = given.targets
    there: Tensor = ~targets.isnan()
    if _are_ids(given, loss):
        return there
    counts = loss.item_counts(targets, inputs=given.inputs)
    if counts.shape == targets.shape:
        return there
    return there.flatten(counts.ndim).all(-1) if counts.shape == targets.shape[: counts.ndim] else there.all(1)


def _are_ids(given: Given, loss: AdditiveLoss) -> bool:
    """Whether floating-point targets are class ids, as columns of numbers are of which some are missing."""
    targets: Tensor = given.targets[0]
    if not loss.takes_ids or not targets.is_floating_point():
        return False
    if given.inputs:
        num_axes: int = given.inputs[0].ndim - 1
        return targets.ndim == num_axes
    return targets.ndim == 1 or targets.ndim == (2 if getattr(loss, "class_axis", 1) == -1 else 3)


def _replaced(tensor: Any, valid: Tensor, loss: nn.Module, harmless: float, sample_axis: int = 0) -> Any:
    """The tensor with a harmless number at items that do not count."""
    if not isinstance(tensor, Tensor):
        return tensor
    if sample_axis:
        return _replaced(tensor.movedim(sample_axis, 0), valid, loss, harmless).movedim(0, sample_axis)
    if harmless < 0:  # no id of a byte
        tensor = tensor.long()
    number = torch.full((), harmless, dtype=tensor.dtype, device=tensor.device)
    return torch.where(_aligned(valid, tensor, loss), tensor, number)


def _aligned(weights: Tensor, like: Tensor, loss: nn.Module) -> Tensor:
    """Weights of items, broadcast to a tensor that has the items' axes first, or classes between them.

    Raises:
        ValueError: the shapes do not fit.
    """
    missing = like.ndim - weights.ndim
    may_have_classes = isinstance(loss, ClassAxisMixin) and loss.class_axis != -1 and missing == 1 and weights.ndim > 1
    if may_have_classes and like.shape[:1] + like.shape[2:] == weights.shape:
        return weights.unsqueeze(1)
    if missing >= 0 and like.shape[: weights.ndim] == weights.shape:
        return weights.reshape(*weights.shape, *[1] * missing)
    cure = "; drop its last axis: .squeeze(-1)" if weights.shape == (*like.shape[: weights.ndim - 1], 1) else ""
    raise ValueError(
        f"a mask or weights {tuple(weights.shape)} do not fit {tuple(like.shape)}: there must be one per item, "
        f"{tuple(like.shape[:1])} or {tuple(like.shape)}, or as many of the first axes{cure}"
    )


def _of_the_others(loss: nn.Module, given: Given, items: ItemWeights) -> Any:
    """A loss that is no sum over items: without what is masked, which is ignored, or is taken out of the batch."""
    if items.sample_weight is not None:
        raise TypeError(
            f"{type(loss).__name__} is no mean over items, so it takes no `{SAMPLE_WEIGHT}`, but a `{MASK}` of those "
            "that count"
        )
    if getattr(loss, "group_size", 1) > 1 and not given.optional:
        raise TypeError(f"{type(loss).__name__} pairs samples by their place, so it takes no `{MASK}`")
    targets = given.targets[0] if len(given.targets) == 1 else None
    mask = None if items.mask is None else items.mask != 0
    if items.missing and targets is not None and targets.is_floating_point():
        there = ~targets.isnan()
        if not getattr(loss, "is_elementwise", False):
            there = there.flatten(1).all(1) if there.ndim > 1 else there
        mask = there if mask is None else _aligned(mask, there, loss) & there
    if mask is None:
        return loss(*given.inputs, *given.targets, **given.optional)
    ignore_index: Any = getattr(loss, "ignore_index", None)
    if mask.ndim > 1 and isinstance(ignore_index, int) and targets is not None:
        # In a dtype that can hold the index.
        ids = targets.short() if targets.dtype in (torch.bool, torch.uint8) else targets
        return loss(*given.inputs, ids.masked_fill(_aligned(~mask, ids, loss), ignore_index), **given.optional)

    def rows(tensor: Any) -> Any:
        return tensor[mask] if isinstance(tensor, Tensor) and tensor.shape[: mask.ndim] == mask.shape else tensor

    for name, tensor in (("inputs", given.inputs), ("targets", given.targets)):
        for x in tensor:
            if x.shape[: mask.ndim] != mask.shape:
                raise ValueError(f"a mask {tuple(mask.shape)} does not fit the {name} {tuple(x.shape)}")
    optional = {role: rows(x) for role, x in given.optional.items()}
    return loss(*map(rows, given.inputs), *map(rows, given.targets), **optional)
