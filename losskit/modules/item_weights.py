"""Which items of a batch count, and how much: the `mask` and `sample_weight` of a feature, and labels that are missing.

An item that does not count may hold anything, NaN too: its inputs and targets are replaced before the loss sees them,
for 0 times a gradient of NaN is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losskit.constants import BINARY, EVERYTHING, IMAGE, PROBABILITIES, VARIANCE
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss, ClassAxisMixin
from losskit.modules.binary import LabelAxisMixin
from losskit.modules.lookup import MASK, SAMPLE_WEIGHT, Given, Lookup
from losskit.modules.reduction import divide
from losskit.modules.shapes import require_real, require_tensor

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
            if tensor.is_floating_point():
                checking.require_between(tensor, name, 0, math.inf)
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
        return _of_the_others(loss, lookup, given, items)
    prepared, weights = _prepared(loss, lookup, given, items)
    values = loss.item_values(*prepared.inputs, *prepared.targets, **prepared.optional)
    weights = loss.item_weights(weights)
    factors = _aligned(weights, values, _has_inner_axis(loss, lookup)).to(values.dtype)
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
        return loss.count_of_part(*given.targets, inputs=given.inputs, **_optional_targets(lookup, given))
    prepared, weights = _prepared(loss, lookup, given, items)
    if not lookup.targets and not given.inputs:
        return weights.sum()  # such as triplets, of which each has one
    return _sum_of_counts(loss, lookup, prepared, loss.item_weights(weights))


def _optional_targets(lookup: Lookup, given: Given) -> dict[str, Any]:
    return {name: value for name, value in given.optional.items() if name in lookup.optional_targets}


def _item_counts(loss: AdditiveLoss, lookup: Lookup, given: Given) -> Tensor:
    counts = loss.item_counts(*given.targets, inputs=given.inputs, **_optional_targets(lookup, given))
    if loss.reduction != "batchmean":
        return counts
    # Each sample counts once, whatever the number of its items.
    return counts / max(math.prod(counts.shape[1:]), 1)


def _sum_of_counts(loss: AdditiveLoss, lookup: Lookup, given: Given, weights: Tensor) -> Tensor:
    """The sum of the counts of all items in proportion to their weights."""
    counts = _item_counts(loss, lookup, given)
    return (counts * _aligned(weights, counts, _has_inner_axis(loss, lookup))).sum()


def _prepared(loss: AdditiveLoss, lookup: Lookup, given: Given, items: ItemWeights) -> tuple[Given, Tensor]:
    """What the loss is called with, harmless where an item does not count, and the weights of the items."""
    inner = _has_inner_axis(loss, lookup)
    weights = _combined(loss, given, items, inner)
    valid, has_value = weights != 0, loss.item_weights(weights) != 0
    inputs = []
    for role, tensor in zip(lookup.inputs, given.inputs, strict=False):
        samples_first = tensor.movedim(loss.sample_axis, 0) if loss.sample_axis else tensor
        replaced = _replaced(samples_first, has_value, _HARMLESS.get(role, 0.0), inner)
        inputs.append(replaced.movedim(0, loss.sample_axis) if loss.sample_axis else replaced)
    optional = dict(given.optional)
    for name in lookup.optional_targets:  # such as lengths, if it is samples that do not count
        if name in optional and optional[name].ndim >= valid.ndim:
            optional[name] = _replaced(optional[name], valid, 0, inner)
    targets = given.targets
    if items.missing and targets and _are_ids(given, loss):
        targets = [targets[0].nan_to_num(0).long()]
    targets = [_replaced(tensor, valid, loss.harmless_target, inner) for tensor in targets]
    return Given(inputs, targets, optional), weights


def _combined(loss: AdditiveLoss, given: Given, items: ItemWeights, inner: bool) -> Tensor:
    """One weight per item, 0 where it does not count, as far as the mask and the weights have axes."""
    conditions = [] if items.mask is None else [items.mask != 0]
    if items.missing and len(given.targets) == 1 and given.targets[0].is_floating_point():
        conditions.append(_is_there(given, loss))
    parts = conditions if items.sample_weight is None else [*conditions, items.sample_weight]
    like = (given.targets or given.inputs or parts)[0]
    tensors = [x for x in (*given.inputs, *given.targets, *parts) if isinstance(x, Tensor)]
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
    if not parts:  # labels that are integers are never missing
        return torch.ones(like.shape[:1], dtype=dtype, device=like.device)
    num_axes = max([part.ndim for part in parts])
    shape = next(part for part in parts if part.ndim == num_axes)
    # Sums of what autocast or a loop has made of the weights, such as bfloat16, would be rounded.
    weights = torch.ones((), dtype=dtype, device=shape.device)
    if items.sample_weight is not None:
        weights = _aligned(items.sample_weight, shape, inner).to(dtype)
    for condition in conditions:
        weights = torch.where(_aligned(condition, shape, inner), weights, torch.zeros_like(weights))
    return weights


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
    if loss.takes_ids_alone:
        return True
    if given.inputs:
        num_axes: int = given.inputs[0].ndim - 1
        return targets.ndim == num_axes
    return targets.ndim == 1 or targets.ndim == (2 if getattr(loss, "class_axis", 1) == -1 else 3)


def _replaced(tensor: Any, valid: Tensor, harmless: float, inner: bool) -> Any:
    """The tensor with a harmless number at items that do not count."""
    if not isinstance(tensor, Tensor):
        return tensor
    if harmless < 0:  # no id of a byte
        tensor = tensor.long()
    number = torch.full((), harmless, dtype=tensor.dtype, device=tensor.device)
    return torch.where(_aligned(valid, tensor, inner), tensor, number)


def _has_inner_axis(loss: nn.Module, lookup: Lookup) -> bool:
    """Whether tensors have an axis behind that of the samples which items lack: classes, channels or branches."""
    if lookup.feature_type in (BINARY, IMAGE):
        return lookup.feature_type == IMAGE
    if not isinstance(loss, ClassAxisMixin):
        return bool(getattr(loss, "has_branches", False))
    return loss.class_axis == 1 or (loss.class_axis is None and not isinstance(loss, LabelAxisMixin))


def _aligned(weights: Tensor, like: Tensor, inner: bool) -> Tensor:
    """Weights of items, broadcast to a tensor that has the items' axes first, or with an inner axis between them.

    Raises:
        ValueError: the shapes do not fit.
    """
    missing = like.ndim - weights.ndim
    fits_around = missing == 1 and weights.ndim > 1 and like.shape[:1] + like.shape[2:] == weights.shape
    if inner and fits_around:
        return weights.unsqueeze(1)
    if missing >= 0 and like.shape[: weights.ndim] == weights.shape:
        return weights.reshape(*weights.shape, *[1] * missing)
    if fits_around:
        return weights.unsqueeze(1)
    cure = "; drop its last axis: .squeeze(-1)" if weights.shape == (*like.shape[: weights.ndim - 1], 1) else ""
    if weights.ndim == like.ndim and weights.shape[1:2] == (1,) and weights.shape[2:] == like.shape[2:]:
        cure = "; drop its channel axis: .squeeze(1)"
    shapes = " or ".join(dict.fromkeys(str(tuple(like.shape[:axes])) for axes in range(1, like.ndim + 1)))
    found = f"a mask or weights {tuple(weights.shape)} do not fit {tuple(like.shape)}"
    raise ValueError(f"{found}: there must be one per item, {shapes}{cure}")


def _of_the_others(loss: nn.Module, lookup: Lookup, given: Given, items: ItemWeights) -> Any:
    """A loss that is no sum over items: without what is masked, which is ignored, or is taken out of the batch."""
    name = type(loss).__name__
    if items.sample_weight is not None:
        raise TypeError(f"{name} is no mean over items: it takes no `{SAMPLE_WEIGHT}`, but a `{MASK}`")
    if getattr(loss, "group_size", 1) > 1 and not given.optional:
        raise TypeError(f"{name} pairs samples by their place, so it takes no `{MASK}`")
    inner, targets = _has_inner_axis(loss, lookup), given.targets
    ignore_index: Any = getattr(loss, "ignore_index", None)
    is_elementwise = getattr(loss, "is_elementwise", False)
    can_ignore = isinstance(ignore_index, int) and len(targets) == 1
    mask = None if items.mask is None else items.mask != 0
    if items.missing and len(targets) == 1 and targets[0].is_floating_point():
        there = ~targets[0].isnan()
        if given.inputs and targets[0].ndim == given.inputs[0].ndim - 1:
            targets = [targets[0].nan_to_num(0).long()]
        elif there.ndim > 1 and not is_elementwise and not can_ignore:
            there = there.flatten(1).all(1)
        mask = there if mask is None else _aligned(mask, there, inner) & there
    if mask is None:
        return loss(*given.inputs, *targets, **given.optional)
    if mask.ndim > 1 and can_ignore:
        # In a dtype that can hold the index.
        ids = targets[0].short() if targets[0].dtype in (torch.bool, torch.uint8) else targets[0]
        ids = ids.masked_fill(_aligned(~mask, ids, inner), ignore_index)
        return loss(*(_replaced(x, mask, 0.0, inner) for x in given.inputs), ids, **given.optional)
    if mask.ndim > 1 and not is_elementwise:
        found = f"a mask {tuple(mask.shape)} does not fit {name}"
        raise ValueError(f"{found}: there must be one number per sample, {tuple(mask.shape[:1])}")
    return _of_rows(loss, Given(given.inputs, targets, given.optional), mask)


def _of_rows(loss: nn.Module, given: Given, mask: Tensor) -> Any:
    """A loss of what the mask leaves of a batch."""

    def rows(tensors: Sequence[Any], what: str) -> list[Any]:
        for tensor in tensors:
            if tensor.shape[: mask.ndim] != mask.shape:
                raise ValueError(f"a mask {tuple(mask.shape)} does not fit the {what} {tuple(tensor.shape)}")
        return [tensor[mask] for tensor in tensors]

    inputs, targets = rows(given.inputs, "inputs"), rows(given.targets, "targets")
    optional = {
        role: x[mask] if isinstance(x, Tensor) and x.shape[: mask.ndim] == mask.shape else x
        for role, x in given.optional.items()
    }
    try:
        return loss(*inputs, *targets, **optional)
    except ValueError as error:
        if " at index " in str(error):
            raise ValueError(f"{error} (among those that the mask leaves)") from error
        raise
