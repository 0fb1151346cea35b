"""What losses of class ids have in common: where the classes lie, and how many items count."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from losskit.modules.base import AdditiveLoss, ClassAxisMixin


class ClassIdsLoss(AdditiveLoss, ClassAxisMixin):
    """A loss of class ids, some of which may be ignored, with one input that has a class axis.

    A subclass says which function computes it; that takes its settings, `class_axis` and `normalizer` as keywords.
    """

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, *, ignore_index: int | None = -100, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        self.require_class_axis(logits, str(self.get_loss_inputs()))
        return self.function(logits, targets, **self.settings(), class_axis=self.class_axis, normalizer=normalizer)

    def count(self, *targets: Tensor) -> Tensor:
        """The number of items that are not ignored."""
        return count_items(targets[0], self.ignore_index, self.class_axis)


def count_items(
    targets: Tensor, ignore_index: int | None, class_axis: int | None, class_weights: Tensor | None = None
) -> Tensor:
    """How many items class ids, or probabilities of classes, speak of; with weights, the sum of those of the ids."""
    if targets.is_floating_point():
        num_classes = targets.shape[0 if targets.ndim == 1 else class_axis or 1]
        return torch.full((), targets.numel() // max(num_classes, 1), device=targets.device)
    ids = targets.long()  # in uint8, -100 would be 156
    valid = torch.ones_like(ids, dtype=torch.bool) if ignore_index is None else ids != ignore_index
    if class_weights is None:
        return valid.sum()
    return (class_weights[ids.masked_fill(~valid, 0)] * valid).sum()
