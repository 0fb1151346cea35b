"""Losses on where a model looks."""

from __future__ import annotations

import torch
from torch import Tensor

from losskit.constants import ATTENTIONS, VECTOR
from losskit.modules.base import AdditiveLoss
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.binary import cross_entropy_of_probabilities, read_probabilities
from losskit.modules.reduction import WITH_BATCHMEAN
from losskit.registry import register_loss
from losskit.schema.attention import AttentionSupervisionLossConfig


def attention_supervision_loss(
    attentions: Tensor, targets: Tensor, *, reduction: str = "batchmean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `AttentionSupervisionLoss`."""
    attentions, targets = read_probabilities(attentions, targets, ATTENTIONS)
    return cross_entropy_of_probabilities(attentions, targets, targets.detach(), reduction, normalizer)


@register_loss("attention_supervision", [VECTOR], schema=AttentionSupervisionLossConfig)
class AttentionSupervisionLoss(AdditiveLoss):
    r"""Draws a model's attention to where people looked; places where they did not look cost nothing.

    $L = -\frac{1}{N} \sum_{n,i} y_{ni} \left(y_{ni} \log a_{ni} + (1 - y_{ni}) \log(1 - a_{ni})\right)$ with the
    attentions $a$, and each logarithm -100 at least.

    Shapes: attentions and targets `(batch, places)`, alike; a scalar, or the same shape unreduced.
    Dtypes: attentions any floating-point in [0, 1], computed in float32 at least; targets bool, integer or in [0, 1].
    Source: MMF's `attention_supervision`, which takes the first of a list of attentions.

    >>> AttentionSupervisionLoss()(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]))
    tensor(0.6931)
    """

    reductions = WITH_BATCHMEAN

    def __init__(self, *, reduction: str = "batchmean") -> None:
        super().__init__(reduction=reduction)

    @classmethod
    def get_loss_inputs(cls) -> str:
        return ATTENTIONS

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Two distributions over some places."""
        attentions, targets = torch.randn(2, 6, sizes.dimensions, generator=generator).softmax(-1)
        return (attentions,), (targets,)

    def forward(self, attentions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return attention_supervision_loss(attentions, targets, **self.settings(), normalizer=normalizer)
