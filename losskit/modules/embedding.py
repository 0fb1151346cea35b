"""Losses between embeddings: what belongs together is drawn together."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from losskit.constants import VECTOR
from losskit.modules.base import AdditiveLoss
from losskit.modules.reduction import reduce
from losskit.modules.shapes import alike
from losskit.registry import register_loss
from losskit.schema.embedding import TripletMarginLossConfig


def triplet_margin_loss(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `TripletMarginLoss`."""
    anchors, positives = alike(anchors, positives, ("anchors", "positives"))
    anchors, negatives = alike(anchors, negatives, ("anchors", "negatives"))
    if anchors.ndim == 0:
        raise ValueError("anchors are a single number, but must be embeddings: (batch, dimensions)")
    values = F.triplet_margin_loss(
        anchors, positives, negatives, margin=margin, p=p, eps=eps, swap=swap, reduction="none"
    )
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("triplet_margin", [VECTOR], schema=TripletMarginLossConfig)
class TripletMarginLoss(AdditiveLoss):
    r"""Asks that an anchor be nearer to a positive than to a negative, by a margin; for learning embeddings.

    With the distance $d(x, y) = \lVert x - y + \varepsilon \rVert_p$:
    $L = \max(0, d(a, p) - d(a, n) + \mathrm{margin})$.

    Shapes: anchors, positives and negatives `(batch, dimensions)`, alike; a scalar, or `(batch,)` unreduced. It takes
    no targets. Dtypes: any floating-point; computed in float32 at least.
    Source: Balntas et al., "Learning Local Feature Descriptors with Triplets and Shallow Convolutional Neural
    Networks", 2016; `torch.nn.TripletMarginLoss`, whose values it has.

    >>> TripletMarginLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 5.0]]))
    tensor(1.0000)
    """

    def __init__(
        self,
        *,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    @classmethod
    def get_loss_inputs(cls) -> tuple[str, ...]:
        return "anchor", "positive", "negative"

    @classmethod
    def get_loss_targets(cls) -> tuple[str, ...]:
        return ()

    def forward(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        return triplet_margin_loss(
            anchors,
            positives,
            negatives,
            **self.settings(),
            normalizer=normalizer,
        )

    def count(self, *targets: Tensor) -> Tensor:
        raise TypeError("triplet_margin takes no targets; its mean divides by the number of triplets, `len(anchors)`")
