"""Losses that pick, out of all pairs of a batch, those that are hard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import VECTOR
from losskit.modules import checking, fused
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.distributed import GatheringLoss, gathered
from losskit.modules.fused_pairs import Cost, Rows, fill_, kernel_of_pairs, log_one_plus_sum_, when_worth_it
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import require_alike
from losskit.modules.similarities import diagonal_mask, embeddings, products, require_ids, same_ids, unit
from losskit.registry import register_loss
from losskit.schema.mining import (
    MsLossConfig,
    MultiSimilarityLossConfig,
    RefinerContrastiveLossConfig,
    RefinerMsLossConfig,
)

# Of MMF's ms_loss, which has it no setting.
_MINING_EPSILON = 0.1


def _log_one_plus_sum(scores: Tensor, pairs: Tensor) -> Tensor:
    """The logarithm of 1 plus the sum of e^score over the pairs of each row; no sample is paired with itself."""
    # The place of the sample itself holds the 1.
    rest = torch.zeros_like(scores).masked_fill(~diagonal_mask(scores), -math.inf)
    return torch.where(pairs, scores, rest).logsumexp(1)


def _multi_similarity(
    vectors: Tensor,
    labels: Tensor,
    same_of: Callable[[Tensor, Tensor], Tensor],
    positive_scale: float,
    negative_scale: float,
    base: float,
    epsilon: float | None,
    reduction: str,
) -> Tensor:
    """The loss of vectors and their labels; `same_of` says which of all samples belong to which of some."""

    def values_of(similarities: Tensor) -> Tensor:
        same = same_of(labels, labels)
        positives, negatives = same & ~diagonal_mask(same), ~same
        if epsilon is not None:
            least_positive = similarities.masked_fill(~positives, math.inf).amin(1, keepdim=True)
            most_negative = similarities.masked_fill(~negatives, -math.inf).amax(1, keepdim=True)
            positives = positives & (similarities - epsilon < most_negative)
            negatives = negatives & (similarities + epsilon > least_positive)
        above = similarities - base
        of_positives = _log_one_plus_sum(-positive_scale * above, positives) / positive_scale
        of_negatives = _log_one_plus_sum(negative_scale * above, negatives) / negative_scale
        return masked(of_positives + of_negatives, positives.any(1) & negatives.any(1))

    def cost(rows: Rows, needs_gradient: bool) -> tuple[float, Tensor | None]:
        same = same_of(labels, rows.of(labels))
        rows.own().fill_(math.inf)  # no positive is as far away as what is missing
        positives = Rows(torch.where(same, rows.block, math.inf), rows.start)
        negatives = Rows(fill_(rows.block, same, -math.inf), rows.start)
        least_positive, most_negative = positives.block.amin(1, keepdim=True), negatives.block.amax(1, keepdim=True)
        have_both = (least_positive < math.inf) & (most_negative > -math.inf)
        if epsilon is not None:
            have_both &= (least_positive - epsilon < most_negative) & (most_negative + epsilon > least_positive)
            fill_(positives.block, positives.block - epsilon >= most_negative, math.inf)
            fill_(negatives.block, negatives.block + epsilon <= least_positive, -math.inf)
        values = log_one_plus_sum_(negatives, negative_scale, base)
        values -= log_one_plus_sum_(positives, -positive_scale, base)
        total = masked(values, have_both.squeeze(1)).sum().item()
        if not needs_gradient:
            return total, None
        slopes = negatives.block.sub_(positives.block)
        return total, slopes if bool(have_both.all()) else masked(slopes, have_both)

    if len(vectors) == 0:
        return reduce(vectors.sum(1), reduction)
    return _of_rows(values_of, cost, [vectors], labels, normalize=True, reduction=reduction)


def _of_rows(
    values_of: Callable[[Tensor], Tensor],
    cost: Cost,
    vectors: Sequence[Tensor],
    *others: Tensor,
    normalize: bool,
    reduction: str,
) -> Tensor:
    """The loss of the similarities of two of the vectors, or of one with itself, of which rows have values."""

    def plain(*vectors: Tensor) -> Tensor:
        sides = [unit(x) for x in vectors] if normalize else vectors
        return reduce(values_of(products(sides[0], sides[-1])), reduction)

    size = len(vectors[0])
    if not fused.can_fuse(*vectors, *others, **when_worth_it(size)):
        return plain(*vectors)
    kernel = kernel_of_pairs(cost, normalize=normalize)
    return fused.reduced(kernel, plain, vectors, reduction, count=size, constants=others, **when_worth_it(size))


def multi_similarity_loss(
    embedding: Tensor,
    targets: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    miner_epsilon: float | None = 0.1,
    gather: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """See `MultiSimilarityLoss`."""
    vectors = embeddings(embedding, "embeddings")
    require_ids(targets, vectors, "embeddings")
    if gather:
        vectors, targets = gathered(vectors, targets)
    return _multi_similarity(vectors, targets, same_ids, alpha, beta, base, miner_epsilon, reduction)


@register_loss("multi_similarity", [VECTOR], schema=MultiSimilarityLossConfig)
class MultiSimilarityLoss(GatheringLoss):
    r"""Draws samples of one class together and others apart, the hard pairs most; for embeddings with class ids.

    With the cosine $s_{ij}$ of two embeddings, positives $p$ that have the id of $i$ and negatives $n$ that have not:
    $L_i = \frac{1}{\alpha} \log(1 + \sum_p e^{-\alpha (s_{ip} - \mathrm{base})})
    + \frac{1}{\beta} \log(1 + \sum_n e^{\beta (s_{in} - \mathrm{base})})$. Only those positives count that are less
    similar than the most similar negative plus `miner_epsilon`, and those negatives that are more similar than the
    least similar positive minus it. Samples without positives, or without negatives, are 0 and stay in the mean.

    Shapes: embeddings `(batch, dimensions)` and targets `(batch,)`, which are ids; a scalar, or `(batch,)` unreduced.
    Dtypes: embeddings any floating-point, computed in float32 at least; ids any integer.
    The pairs are those of the batch, with `gather` those of all ranks in training: the loss of a batch is not that of
    its parts.
    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", 2019.

    >>> MultiSimilarityLoss()(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))
    tensor(0.6044)
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        miner_epsilon: float | None = 0.1,
        gather: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(gather=gather, reduction=reduction)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.miner_epsilon = miner_epsilon

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Vectors with class ids."""
        return (torch.randn(6, sizes.dimensions, generator=generator),), (torch.tensor([0, 1, 0, 2, 1, 0]),)

    def forward(self, embedding: Tensor, targets: Tensor) -> Tensor:
        return multi_similarity_loss(embedding, targets, **self.current_settings())


def ms_loss(
    embedding: Tensor,
    targets: Tensor,
    *,
    alpha: float = 50.0,
    beta: float = 2.0,
    margin: float = 0.5,
    hard_mining: bool = True,
    is_multilabel: bool = False,
    gather: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """See `MsLoss`."""
    vectors = embeddings(embedding, "embeddings")
    has_labels = isinstance(targets, Tensor) and targets.ndim == 2 and len(targets) == len(vectors)
    if not has_labels and is_multilabel and isinstance(targets, Tensor):
        raise ValueError(
            f"embeddings {tuple(vectors.shape)} and targets {tuple(targets.shape)} do not fit: with is_multilabel, "
            "targets are a 0 or 1 for each label: (batch, labels)"
        )
    if not has_labels:
        require_ids(targets, vectors, "embeddings")
    if gather:
        vectors, targets = gathered(vectors, targets)
    same_of: Callable[[Tensor, Tensor], Tensor] = same_ids
    if targets.ndim == 2:
        good = (targets == 0) | (targets == 1)
        checking.require_each(good, targets, "targets hold a value other than 0 and 1, of which labels are made")
        targets = targets.float()
        same_of = _shared_labels if is_multilabel else _same_labels
    epsilon = _MINING_EPSILON if hard_mining else None
    return _multi_similarity(vectors, targets, same_of, beta, alpha, margin, epsilon, reduction)


def _shared_labels(labels: Tensor, of: Tensor) -> Tensor:
    return products(of, labels) > 0


def _same_labels(labels: Tensor, of: Tensor) -> Tensor:
    shared = products(of, labels)
    return (shared == labels.sum(1)) & (shared == of.sum(1, keepdim=True))


@register_loss("ms", [VECTOR], schema=MsLossConfig, aliases=["ms_loss"])
class MsLoss(GatheringLoss):
    r"""Draws samples of one class, or that share a label, together and others apart, with the settings of MMF.

    It is `multi_similarity`, where `alpha` scales the negatives, `beta` the positives, and `margin` is the base:
    $L_i = \frac{1}{\beta} \log(1 + \sum_p e^{-\beta (s_{ip} - \mathrm{margin})})
    + \frac{1}{\alpha} \log(1 + \sum_n e^{\alpha (s_{in} - \mathrm{margin})})$.

    Shapes: embeddings `(batch, dimensions)`, and targets `(batch,)`, which are ids, or `(batch, labels)` with a 0 or 1
    for each label; a scalar, or `(batch,)` unreduced.
    Dtypes: embeddings any floating-point, computed in float32 at least; ids any integer, labels any dtype.
    The pairs are those of the batch, with `gather` those of all ranks in training: the loss of a batch is not that of
    its parts.
    Source: Wang et al., "Multi-Similarity Loss with General Pair Weighting for Deep Metric Learning", 2019; MMF's
    `ms_loss`.

    >>> MsLoss()(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 1]))
    tensor(0.6044)
    """

    def __init__(
        self,
        *,
        alpha: float = 50.0,
        beta: float = 2.0,
        margin: float = 0.5,
        hard_mining: bool = True,
        is_multilabel: bool = False,
        gather: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(gather=gather, reduction=reduction)
        self.alpha = alpha
        self.beta = beta
        self.margin = margin
        self.hard_mining = hard_mining
        self.is_multilabel = is_multilabel

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Vectors with labels: some samples have the same, some share one, some have none in common."""
        labels = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 1, 0]])
        return (torch.randn(6, sizes.dimensions, generator=generator),), (labels,)

    def forward(self, embedding: Tensor, targets: Tensor) -> Tensor:
        return ms_loss(embedding, targets, **self.current_settings())


def _decoded(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    require_alike(logits, targets, ("logits", "targets"))
    decoded = embeddings(logits, "logits")
    return decoded, embeddings(targets, "targets").to(decoded.dtype)


class _OfVectors(GatheringLoss):
    """For losses of decoded vectors and of those that they should be."""

    def nothing(self, device: torch.device) -> tuple[Tensor, ...]:
        """No vectors, and no targets of them."""
        return torch.zeros(0, 1, device=device), torch.zeros(0, 1, device=device)


def refiner_ms_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float = 50.0,
    beta: float = 2.0,
    base: float = 0.5,
    margin: float = 0.1,
    epsilon: float = 1e-16,
    gather: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """See `RefinerMsLoss`."""
    decoded, targets = _decoded(logits, targets)
    if gather:
        decoded, targets = gathered(decoded, targets)
    if len(decoded) == 0:
        return reduce(decoded.sum(1), reduction)

    def values_of(similarities: Tensor) -> Tensor:
        own = similarities.diagonal()
        negatives = negatives_of(similarities, own.unsqueeze(1))
        of_own = -F.logsigmoid(beta * (own - base)) / beta
        of_negatives = _log_one_plus_sum(alpha * (similarities - base), negatives) / alpha
        return masked(of_own + of_negatives, negatives.any(1))

    def negatives_of(similarities: Tensor, own: Tensor) -> Tensor:
        return ((similarities - own).abs() > epsilon) & (similarities + margin > own)

    def cost(rows: Rows, needs_gradient: bool) -> tuple[float, Tensor | None]:
        own = rows.own().clone()
        negatives = negatives_of(rows.block, own.unsqueeze(1))
        has_any = negatives.any(1)
        fill_(rows.block, negatives.logical_not_(), -math.inf)
        of_own = -F.logsigmoid(beta * (own - base)) / beta
        total = masked(of_own + log_one_plus_sum_(rows, alpha, base), has_any).sum().item()
        if not needs_gradient:
            return total, None
        rows.own().copy_(-torch.sigmoid(beta * (base - own)))
        return total, masked(rows.block, has_any.unsqueeze(1))

    return _of_rows(values_of, cost, [decoded, targets], normalize=False, reduction=reduction)


@register_loss("refiner_ms", [VECTOR], schema=RefinerMsLossConfig)
class RefinerMsLoss(_OfVectors):
    r"""Draws a decoded vector to its own target and away from the targets of others that are about as similar.

    With the dot products $s_{ij}$ of a decoded vector and a target, and as negatives $n$ the other targets with
    $s_{in} + \mathrm{margin} > s_{ii}$:
    $L_i = \frac{1}{\beta} \log(1 + e^{-\beta (s_{ii} - \mathrm{base})})
    + \frac{1}{\alpha} \log(1 + \sum_n e^{\alpha (s_{in} - \mathrm{base})})$; 0 for samples without negatives, which
    stay in the mean.

    Shapes: logits and targets `(batch, dimensions)`, alike; a scalar, or `(batch,)` unreduced.
    Dtypes: any floating-point; computed in float32 at least.
    The negatives are those of the batch, with `gather` those of all ranks in training: the loss of a batch is not that
    of its parts.
    Source: Sankaran et al., "Multimodal Fusion Refiner Networks", 2021; MMF's `refiner_ms`.

    >>> RefinerMsLoss()(torch.eye(2), torch.tensor([[0.5, 0.0], [1.0, 1.0]]))
    tensor(0.4233)
    """

    def __init__(
        self,
        *,
        alpha: float = 50.0,
        beta: float = 2.0,
        base: float = 0.5,
        margin: float = 0.1,
        epsilon: float = 1e-16,
        gather: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(gather=gather, reduction=reduction)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.margin = margin
        self.epsilon = epsilon

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return refiner_ms_loss(logits, targets, **self.current_settings())


def refiner_contrastive_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    sim_thresh: float = 0.1,
    epsilon: float = 1e-16,
    gather: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """See `RefinerContrastiveLoss`."""
    decoded, targets = _decoded(logits, targets)
    if gather:
        decoded, targets = gathered(decoded, targets)

    def means(similarities: Tensor, own: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gaps = similarities - own
        negatives = (gaps.abs() > epsilon) & (similarities > own - sim_thresh)
        counts = negatives.sum(1).clamp_min(1)
        return masked(sim_thresh + gaps, negatives).sum(1) / counts, negatives, counts

    def values_of(similarities: Tensor) -> Tensor:
        return means(similarities, similarities.diagonal().unsqueeze(1))[0]

    def cost(rows: Rows, needs_gradient: bool) -> tuple[float, Tensor | None]:
        values, negatives, counts = means(rows.block, rows.own().unsqueeze(1))
        if not needs_gradient:
            return values.sum().item(), None
        slopes = rows.block.copy_(negatives).div_(counts.unsqueeze(1))
        rows.own().sub_(negatives.any(1).to(slopes.dtype))
        return values.sum().item(), slopes

    return _of_rows(values_of, cost, [decoded, targets], normalize=True, reduction=reduction)


@register_loss(
    "refiner_contrastive", [VECTOR], schema=RefinerContrastiveLossConfig, aliases=["refiner_contrastive_loss"]
)
class RefinerContrastiveLoss(_OfVectors):
    r"""Asks that a decoded vector be more similar to its own target than to any other, by a margin.

    With the cosines $s_{ij}$ of a decoded vector and a target, and as negatives $n$ the other targets with
    $s_{in} > s_{ii} - \mathrm{sim\_thresh}$: $L_i$ is the mean over them of $\mathrm{sim\_thresh} + s_{in} - s_{ii}$;
    0 for samples without negatives, which stay in the mean.

    Shapes: logits and targets `(batch, dimensions)`, alike; a scalar, or `(batch,)` unreduced.
    Dtypes: any floating-point; computed in float32 at least.
    The negatives are those of the batch, with `gather` those of all ranks in training: the loss of a batch is not that
    of its parts.
    Source: Sankaran et al., "Multimodal Fusion Refiner Networks", 2021; MMF's `refiner_contrastive_loss`.

    >>> RefinerContrastiveLoss()(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    tensor(0.1964)
    """

    def __init__(
        self, *, sim_thresh: float = 0.1, epsilon: float = 1e-16, gather: bool = False, reduction: str = "mean"
    ) -> None:
        super().__init__(gather=gather, reduction=reduction)
        self.sim_thresh = sim_thresh
        self.epsilon = epsilon

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return refiner_contrastive_loss(logits, targets, **self.current_settings())
