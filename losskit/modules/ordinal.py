"""Losses for classes that have an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import CATEGORY
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import floating, require_integers, require_tensor
from losskit.registry import register_loss
from losskit.schema.ordinal import CornLossConfig


def corn_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    num_classes: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `CornLoss`."""
    logits, ids = _thresholds(logits, targets, num_classes)
    ranks = torch.arange(logits.shape[1], device=logits.device)
    above = ids.unsqueeze(1) > ranks
    reached = ids.unsqueeze(1) >= ranks
    values = masked(-F.logsigmoid(torch.where(above, logits, -logits)), reached)
    return reduce(values, reduction, count=reached.sum(), normalizer=normalizer)


@register_loss("corn", [CATEGORY], schema=CornLossConfig)
class CornLoss(AdditiveLoss):
    r"""For classes with an order, such as grades: one yes-or-no question per step, whether the class lies higher still.

    With ids $y$ from 0 to $K - 1$ and the logit $z_k$ of $P(y > k \mid y \ge k)$: $L_k = -\log \sigma(z_k)$ where
    $y > k$, and $-\log \sigma(-z_k)$ where $y = k$. Where $y < k$, the question does not arise. The mean is over all
    questions that do. Of $K$ logits per item, as classifiers give them, the last is not used if `num_classes` says
    that there are $K$ classes.

    Shapes: logits `(batch, K - 1)`, or `(batch, K)` with `num_classes`; targets `(batch,)` ids; a scalar, or
    `(batch, K - 1)` unreduced. Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based on Conditional
    Probabilities", 2021.

    >>> CornLoss()(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
    tensor(0.4100)
    """

    takes_ids = takes_ids_alone = True

    def __init__(self, *, num_classes: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.num_classes = num_classes

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return corn_loss(logits, targets, **self.settings(), normalizer=normalizer)

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """The number of questions that arise for each item.

        Raises:
            TypeError: `num_classes` is not set, and the targets do not say how many questions there are.
        """
        if self.num_classes is not None:
            num_questions = self.num_classes - 1
        elif inputs:
            num_questions = inputs[0].shape[1]
        else:
            raise TypeError("the targets do not say how many classes corn has; set num_classes")
        return (targets[0].long() + 1).clamp_max(num_questions)


def _thresholds(logits: Tensor, targets: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """The logit of each step between two classes, and the ids."""
    logits = floating(logits, "logits")
    require_tensor(targets, "targets")
    shapes = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        cure = "; drop the targets' last axis: targets.squeeze(-1)" if targets.shape == (*logits.shape[:1], 1) else ""
        raise ValueError(f"{shapes} do not fit: they must be (batch, classes - 1) and (batch,){cure}")
    require_integers(targets)
    if num_classes is None:
        num_classes = logits.shape[1] + 1
    if logits.shape[1] not in (num_classes - 1, num_classes):
        raise ValueError(
            f"{shapes} do not fit {num_classes} classes: the logits must have {num_classes - 1} columns, one per step "
            f"between two classes, or {num_classes}, of which the last is not used"
        )
    ids = targets.long()
    if ids.numel():
        message = f"targets hold a class id outside 0 to {num_classes - 1}"
        checking.require_each((ids >= 0) & (ids < num_classes), ids, message, f"; {shapes} have {num_classes} classes")
    return logits[:, : num_classes - 1], ids
