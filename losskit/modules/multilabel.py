"""Losses for sets of labels, any number of which may be right."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from losskit.constants import SET
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss
from losskit.modules.reduction import reduce, reduce_sum
from losskit.modules.shapes import alike, class_constant
from losskit.registry import register_loss
from losskit.schema.multilabel import SigmoidCrossEntropyLossConfig


def sigmoid_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `SigmoidCrossEntropyLoss`."""
    logits, targets = alike(logits, targets, ("logits", "targets"))
    checking.require_between(targets, "targets", 0, 1)
    weights = class_constant(class_weights, "class_weights", logits, -1)
    if reduction == "none":
        values = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="none")
        return reduce(values, reduction, normalizer=normalizer)
    total = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights, reduction="sum")
    return reduce_sum(total, reduction, logits.numel(), normalizer)


@register_loss("sigmoid_cross_entropy", [SET], schema=SigmoidCrossEntropyLossConfig)
class SigmoidCrossEntropyLoss(AdditiveLoss):
    r"""Asks for each label on its own whether it applies: a yes-or-no cross-entropy per label.

    With $p = \sigma(z)$ and $w_c$ the class weights: $L = -w_c\,y \log p - (1 - y) \log(1 - p)$.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or the same shape unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: `torch.nn.BCEWithLogitsLoss`, whose `pos_weight` the class weights are.

    >>> SigmoidCrossEntropyLoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([[1, 0]]))
    tensor(1.4100)
    """

    class_weights: Tensor | None

    def __init__(self, *, class_weights: Sequence[float] | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.set_constant("class_weights", class_weights)

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return sigmoid_cross_entropy_loss(logits, targets, **self.settings(), normalizer=normalizer)
