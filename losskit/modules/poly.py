"""Cross-entropy with a polynomial of the probability that misses the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from losskit.constants import CATEGORY, IMAGE
from losskit.modules import fused, sharing
from losskit.modules.class_ids import ClassIdsLoss
from losskit.modules.classification import costs_of_distributions, costs_of_ids
from losskit.modules.fused import Workspace
from losskit.modules.fused_softmax import kernel_of_ids
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import Classes, read_classes
from losskit.registry import register_loss
from losskit.schema.poly import PolyLossConfig


def poly_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    epsilon: float = 1.0,
    label_smoothing: float = 0.0,
    ignore_index: int | None = -100,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `PolyLoss`."""
    given = read_classes(logits, targets, axis=class_axis, ignore_index=ignore_index, upcast=False)
    count = given.num_items()

    def plain(logits: Tensor) -> Tensor:
        values = _values(given.of(logits), epsilon, label_smoothing)
        return reduce(masked(values, given.valid), reduction, count=count, normalizer=normalizer)

    if not given.are_ids:
        return plain(logits)
    num_classes = logits.shape[given.axis]

    def costs(log_p: Tensor, ids: Tensor, room: Workspace) -> tuple[Tensor, Tensor]:
        # (1 - s) (epsilon (1 - p) - log p), and of the other classes' missed probabilities a constant.
        missed = torch.expm1(log_p, out=room("missed", log_p.shape)).neg_()
        slopes = torch.sub(missed, 1, out=room("costs", log_p.shape)).mul_(epsilon).sub_(1).mul_(1 - label_smoothing)
        values = missed.mul_(epsilon).sub_(log_p).mul_(1 - label_smoothing)
        return values.add_(epsilon * label_smoothing * (num_classes - 1) / num_classes), slopes

    kernel = kernel_of_ids(given.targets, given.valid, given.axis, costs, spread=label_smoothing / max(num_classes, 1))
    return fused.reduced(
        kernel, plain, [logits], reduction, count=count, normalizer=normalizer, constants=[given.targets]
    )


def _values(given: Classes, epsilon: float, label_smoothing: float) -> Tensor:
    axis = given.axis
    log_probabilities = sharing.log_softmax(given.logits, axis)
    if given.are_ids:
        values = costs_of_ids(log_probabilities, given, None, label_smoothing)
        # 1 - p loses the digits of a p near 1.
        missed = -log_probabilities.gather(axis, given.targets.unsqueeze(axis)).squeeze(axis).expm1()
    else:
        values = costs_of_distributions(log_probabilities, given, None, label_smoothing)
        missed = -(given.targets * log_probabilities.expm1()).sum(axis)
    if label_smoothing:
        # Spread over all possible classes, the probabilities that each of them misses sum to their number less 1.
        num_possible = (log_probabilities > -math.inf).sum(axis, dtype=values.dtype)
        missed = (1 - label_smoothing) * missed + label_smoothing * (num_possible - 1) / num_possible
    return values + epsilon * missed


@register_loss("poly", [CATEGORY, IMAGE], schema=PolyLossConfig, aliases=["poly1"])
class PolyLoss(ClassIdsLoss):
    r"""Cross-entropy that pulls harder, or less hard, on examples which the model is nearly sure of already.

    With $p = \mathrm{softmax}(z)$ and labels $y$: $L = -\sum_c y_c \log p_c + \epsilon \sum_c y_c (1 - p_c)$, where
    `label_smoothing` $\varepsilon$ makes the labels $(1 - \varepsilon) y + \varepsilon / C$.

    Shapes: logits `(batch, classes, ...)`; targets `(batch, ...)` ids or, shaped like the logits, probabilities; a
    scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", 2022, where it
    is Poly-1.

    >>> PolyLoss()(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(0.4526)
    """

    function = staticmethod(poly_loss)

    def __init__(
        self,
        *,
        epsilon: float = 1.0,
        label_smoothing: float = 0.0,
        ignore_index: int | None = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self.epsilon = epsilon
        self.label_smoothing = label_smoothing
