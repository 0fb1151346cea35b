"""What losses of class ids have in common: where the classes lie, and how many items count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from losskit.modules.base import AdditiveLoss, ClassAxisMixin, ones


class ClassIdsLoss(AdditiveLoss, ClassAxisMixin):
    """A loss of class ids, some of which may be ignored, with one input that has a class axis.

    A subclass says which function computes it; that takes its settings, `class_axis` and `normalizer` as keywords.
    """

    function: ClassVar[Callable[..., Tensor]]
    takes_ids = True

    def __init__(self, *, ignore_index: int | None = -100, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        self.require_class_axis(logits, str(self.get_loss_inputs()))
        return self.function(logits, targets, **self.settings(), class_axis=self.class_axis, normalizer=normalizer)

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each item that is not ignored."""
        return counts_of_ids(targets[0], self.ignore_index, self.class_axis)


def counts_of_ids(
    targets: Tensor, ignore_index: int | None, class_axis: int | None, class_weights: Tensor | None = None
) -> Tensor:
    """For each item of class ids, or of probabilities of classes, 1, or the weight of its id; 0 where it is ignored."""
    if targets.is_floating_point():
        shape = list(targets.shape)
        del shape[0 if targets.ndim == 1 else class_axis or 1]
        return ones(shape, targets)
    ids = targets.long()  # in uint8, -100 would be 156
    if ignore_index is None:
        return ones(ids.shape, ids) if class_weights is None else class_weights[ids]
    valid = ids != ignore_index
    return valid if class_weights is None else class_weights[ids.masked_fill(~valid, 0)] * valid
