"""Losses between embeddings: what belongs together is drawn together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import VECTOR
from losskit.modules.base import AdditiveLoss, RowsLoss, ones
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.checking import check_option
from losskit.modules.reduction import reduce
from losskit.modules.shapes import alike, signs
from losskit.modules.similarities import cosines
from losskit.registry import register_loss
from losskit.schema.embedding import (
    CosEmbLossConfig,
    CosineEmbeddingLossConfig,
    TripletMarginLossConfig,
    TripletMarginWithDistanceLossConfig,
)

_DISTANCES = {
    "l2": F.pairwise_distance,
    "squared_l2": lambda x, y: (x - y).square().sum(-1),
    "l1": lambda x, y: (x - y).abs().sum(-1),
    "cosine": lambda x, y: 1 - cosines(x, y),
}


class _OfTriplets(AdditiveLoss):
    """For losses of an anchor, a positive and a negative, which are all that there is."""

    @classmethod
    def get_loss_inputs(cls) -> tuple[str, ...]:
        return "anchor", "positive", "negative"

    @classmethod
    def get_loss_targets(cls) -> tuple[str, ...]:
        return ()

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each triplet."""
        if not inputs:
            name = type(self).__name__
            raise TypeError(f"{name} takes no targets; its mean divides by the number of triplets, `len(anchors)`")
        return ones(inputs[0].shape[:-1], inputs[0])


def _triplets(anchors: Tensor, positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    anchors, positives = alike(anchors, positives, ("anchors", "positives"))
    anchors, negatives = alike(anchors, negatives, ("anchors", "negatives"))
    if anchors.ndim == 0:
        raise ValueError("anchors are a single number, but must be embeddings: (batch, dimensions)")
    return anchors, positives, negatives


def _scaled_distance(one: Tensor, other: Tensor, p: float, eps: float) -> Tensor:
    """torch's pairwise distance, relative to the largest difference: the powers of a high norm would overflow."""
    differences = one - other + eps
    if differences.shape[-1] == 0:
        return differences.sum(-1)
    largest = differences.detach().abs().amax(-1, keepdim=True).clamp_min(torch.finfo(differences.dtype).tiny)
    distance: Tensor = torch.linalg.vector_norm(differences / largest, p, dim=-1) * largest.squeeze(-1)
    return distance


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
    anchors, positives, negatives = _triplets(anchors, positives, negatives)
    torch_loss: Callable[..., Tensor] = functools.partial(F.triplet_margin_loss, p=p, eps=eps)
    if p > 2:
        distance = functools.partial(_scaled_distance, p=p, eps=eps)
        torch_loss = functools.partial(F.triplet_margin_with_distance_loss, distance_function=distance)
    values = torch_loss(anchors, positives, negatives, margin=margin, swap=swap, reduction="none")
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("triplet_margin", [VECTOR], schema=TripletMarginLossConfig)
class TripletMarginLoss(_OfTriplets):
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

    def forward(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        return triplet_margin_loss(anchors, positives, negatives, **self.settings(), normalizer=normalizer)


def triplet_margin_with_distance_loss(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor,
    *,
    distance: str = "l2",
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `TripletMarginWithDistanceLoss`."""
    check_option("distance", distance, tuple(_DISTANCES))
    anchors, positives, negatives = _triplets(anchors, positives, negatives)
    values = F.triplet_margin_with_distance_loss(
        anchors,
        positives,
        negatives,
        distance_function=_DISTANCES[distance],
        margin=margin,
        swap=swap,
        reduction="none",
    )
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("triplet_margin_with_distance", [VECTOR], schema=TripletMarginWithDistanceLossConfig)
class TripletMarginWithDistanceLoss(_OfTriplets):
    r"""Asks that an anchor be nearer to a positive than to a negative, with a distance of choice, such as the cosine.

    $L = \max(0, d(a, p) - d(a, n) + \mathrm{margin})$, where $d$ is the Euclidean distance
    $\lVert x - y + 10^{-6} \rVert$, its square without the $10^{-6}$, the sum of absolute differences, or one minus
    the cosine.

    Shapes: anchors, positives and negatives `(batch, ..., dimensions)`, alike; a scalar, or `(batch, ...)` unreduced.
    It takes no targets. Dtypes: any floating-point; computed in float32 at least.
    Source: `torch.nn.TripletMarginWithDistanceLoss`, whose values it has with `PairwiseDistance` for `l2`.

    >>> loss = TripletMarginWithDistanceLoss(distance="cosine")
    >>> loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([[-3.0, 0.0]]))
    tensor(0.)
    """

    def __init__(
        self, *, distance: str = "l2", margin: float = 1.0, swap: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.distance = distance
        self.margin = margin
        self.swap = swap

    def forward(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        return triplet_margin_with_distance_loss(
            anchors, positives, negatives, **self.settings(), normalizer=normalizer
        )


def cosine_embedding_loss(
    embedding_1: Tensor,
    embedding_2: Tensor,
    targets: Tensor,
    *,
    margin: float = 0.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `CosineEmbeddingLoss`."""
    one, other = alike(embedding_1, embedding_2, ("embedding_1", "embedding_2"))
    if one.ndim == 0:
        raise ValueError("embedding_1 is a single number, but must be embeddings: (batch, dimensions)")
    labels = signs(targets, one.dtype)
    if labels.shape != one.shape[:-1]:
        raise ValueError(
            f"embedding_1 {tuple(one.shape)} and targets {tuple(labels.shape)} do not fit; there must be one target "
            f"per pair of embeddings: {tuple(one.shape[:-1])}"
        )
    similarities = cosines(one, other)
    values = torch.where(labels > 0, 1 - similarities, (similarities - margin).clamp_min(0))
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("cosine_embedding", [VECTOR], schema=CosineEmbeddingLossConfig)
class CosineEmbeddingLoss(AdditiveLoss):
    r"""Turns pairs that belong together to one direction and others away from it; for pairs with yes-or-no labels.

    $L = 1 - \cos(x_1, x_2)$ where they belong together, else $\max(0, \cos(x_1, x_2) - \mathrm{margin})$. An
    embedding of exactly 0 has the cosine 0 to all, and gradient 0.

    Shapes: both embeddings `(batch, ..., dimensions)`, alike, and targets `(batch, ...)`; a scalar, or `(batch, ...)`
    unreduced.
    Dtypes: embeddings any floating-point, computed in float32 at least; targets any, 1 and -1, or 1 and 0.
    Source: `torch.nn.CosineEmbeddingLoss`, whose values it has.

    >>> pairs = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    >>> CosineEmbeddingLoss(margin=0.5)(*pairs, torch.tensor([1, -1]))
    tensor(0.7500)
    """

    def __init__(self, *, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = margin

    @classmethod
    def get_loss_inputs(cls) -> tuple[str, ...]:
        return "embedding_1", "embedding_2"

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Pairs of vectors, half of which belong together."""
        pairs = torch.randn(2, 6, sizes.dimensions, generator=generator).unbind()
        return pairs, (torch.tensor([1.0, -1.0] * 3),)

    def forward(
        self,
        embedding_1: Tensor,
        embedding_2: Tensor,
        targets: Tensor,
        *,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        return cosine_embedding_loss(embedding_1, embedding_2, targets, **self.settings(), normalizer=normalizer)


def cos_emb_loss(
    predictions: Tensor,
    targets: Tensor,
    *,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `CosEmbLoss`."""
    predictions, targets = alike(predictions, targets)
    if predictions.ndim == 0:
        raise ValueError("predictions are a single number, but must be embeddings: (batch, dimensions)")
    return reduce(1 - cosines(predictions, targets), reduction, normalizer=normalizer)


@register_loss("cos_emb", [VECTOR], schema=CosEmbLossConfig, aliases=["cos_emb_loss"])
class CosEmbLoss(RowsLoss):
    r"""Turns predicted vectors to the direction of the targets, whatever their length; for embeddings as targets.

    $L = 1 - \cos(\hat y, y)$: `cosine_embedding`, where each pair belongs together.

    Shapes: predictions and targets `(batch, ..., dimensions)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least. Source: MMF's `cos_emb_loss`.

    >>> CosEmbLoss()(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(1.)
    """

    def forward(self, predictions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return cos_emb_loss(predictions, targets, **self.settings(), normalizer=normalizer)
