"""Losses for features with two classes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import BINARY
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss
from losskit.modules.reduction import reduce
from losskit.modules.shapes import alike
from losskit.registry import register_loss
from losskit.schema.binary import BinaryWeightedCrossEntropyLossConfig


def binary_weighted_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    positive_class_weight: float | Tensor | None = None,
    robust_lambda: float = 0.0,
    confidence_penalty: float = 0.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `BinaryWeightedCrossEntropyLoss`."""
    logits, targets = alike(logits, targets, ("logits", "targets"))
    checking.require_between(targets, "targets", 0, 1)
    weight = None
    if positive_class_weight is not None:
        weight = torch.as_tensor(positive_class_weight, dtype=logits.dtype, device=logits.device)
    values = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    if robust_lambda:
        values = (1 - robust_lambda) * values + robust_lambda / 2
    if confidence_penalty:
        values = values + confidence_penalty * (1 - _binary_entropy(logits) / math.log(2))
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("binary_weighted_cross_entropy", [BINARY], schema=BinaryWeightedCrossEntropyLossConfig)
class BinaryWeightedCrossEntropyLoss(AdditiveLoss):
    r"""Cross-entropy of yes-or-no labels, where positive examples may count more than negative ones.

    With $p = \sigma(z)$ and $w$ the `positive_class_weight`: $L = -w\,y \log p - (1 - y) \log(1 - p)$.
    `robust_lambda` $\lambda$ makes it $(1 - \lambda) L + \lambda / 2$, `confidence_penalty` $a$ adds
    $a (1 - H(p) / \log 2)$ with the entropy $H$ of each prediction.

    Shapes: logits and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: `torch.nn.BCEWithLogitsLoss`; the other settings are Ludwig's, with the penalty taken per prediction
    (Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017).

    >>> BinaryWeightedCrossEntropyLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor(1.4100)
    """

    def __init__(
        self,
        *,
        positive_class_weight: float | None = None,
        robust_lambda: float = 0.0,
        confidence_penalty: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.positive_class_weight = positive_class_weight
        self.robust_lambda = robust_lambda
        self.confidence_penalty = confidence_penalty

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return binary_weighted_cross_entropy_loss(logits, targets, **self.settings(), normalizer=normalizer)


def _binary_entropy(logits: Tensor) -> Tensor:
    """The entropy of a coin with these log odds: $\\log(1 + e^{-|z|}) + |z| \\sigma(-|z|)$."""
    size = logits.abs()
    return F.softplus(-size) + size * (-size).sigmoid()
