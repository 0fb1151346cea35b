"""Losses that compare each sample with all others of the batch."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import LOGITS, TARGETS, VECTOR
from losskit.modules import checking, fused
from losskit.modules.distributed import GatheringLoss, gathered
from losskit.modules.fused_pairs import cross_entropy_of_labels, kernel_of_pairs, kernel_of_partners, when_worth_it
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import floating, require_alike
from losskit.modules.similarities import diagonal_mask, embeddings, products, require_ids, same_ids, unit
from losskit.registry import register_loss
from losskit.schema.contrastive import ContrastiveLossConfig, InBatchHingeLossConfig, NtXentLossConfig

_PAIRINGS = {"consecutive": "rows 2i and 2i + 1", "halves": "rows i and i + batch / 2", "labels": ""}


def nt_xent_loss(
    embedding: Tensor,
    targets: Tensor | None = None,
    *,
    temperature: float = 0.07,
    pairing: str = "consecutive",
    gather: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """See `NtXentLoss`."""
    checking.check_option("pairing", pairing, tuple(_PAIRINGS))
    vectors = embeddings(embedding, "embeddings")
    ids = None
    if pairing == "labels":
        if targets is None:
            raise ValueError(f"pairing is labels, but there are no targets; give ids of shape ({len(vectors)},)")
        require_ids(targets, vectors, "embeddings")
        vectors, ids = gathered(vectors, targets) if gather else (vectors, targets)
    elif len(vectors) % 2:
        raise ValueError(
            f"embeddings {tuple(vectors.shape)} are an odd number, but pairing {pairing} takes {_PAIRINGS[pairing]} "
            "for a pair; drop the last batch if it is odd, or pair by labels"
        )
    elif gather:
        (vectors,) = gathered(vectors, by_halves=pairing == "halves")
    size = len(vectors)
    of_pairs = when_worth_it(size)

    def similarities_of(vectors: Tensor) -> tuple[Tensor, Tensor]:
        directions = unit(vectors)
        similarities = products(directions / temperature, directions)
        return similarities, diagonal_mask(similarities)

    if ids is not None:

        def of_labels(vectors: Tensor) -> Tensor:
            similarities, selves = similarities_of(vectors)
            same = same_ids(ids)
            pairs = same & ~selves
            return reduce(_pair_values(similarities, pairs, ~same), reduction, count=pairs.sum())

        if not fused.can_fuse(vectors, ids, **of_pairs):
            return of_labels(vectors)
        kernel = kernel_of_pairs(cross_entropy_of_labels(ids), temperature=temperature)
        return fused.reduced(kernel, of_labels, [vectors], reduction, count=_num_pairs(ids), **of_pairs)
    rows = torch.arange(size, device=vectors.device)
    partners = rows ^ 1 if pairing == "consecutive" else torch.cat([rows[size // 2 :], rows[: size // 2]])

    def of_partners(vectors: Tensor) -> Tensor:
        similarities, selves = similarities_of(vectors)
        logits = similarities.masked_fill(selves, -math.inf)
        return reduce(F.cross_entropy(logits, partners, reduction="none"), reduction)

    kernel = kernel_of_partners(partners, temperature=temperature)
    return fused.reduced(kernel, of_partners, [vectors], reduction, count=size, **of_pairs)


def _num_pairs(ids: Tensor) -> Tensor:
    """How many pairs of different samples have one id; each counts twice."""
    _, sizes = torch.unique(ids, return_counts=True)
    found: Tensor = (sizes * (sizes - 1)).sum()
    return found


def _pair_values(similarities: Tensor, pairs: Tensor, negatives: Tensor) -> Tensor:
    """For each pair, the cross-entropy of its similarity among those of the anchor's negatives; 0 elsewhere."""
    have_negatives = negatives.any(1, keepdim=True)
    # The logarithm of an empty sum is -inf, the gradient of which is NaN.
    rest = torch.where(have_negatives, -math.inf, 0.0).to(similarities.dtype)
    competition = torch.where(negatives, similarities, rest).logsumexp(1, keepdim=True)
    return masked(-F.logsigmoid(similarities - competition), pairs & have_negatives)


@register_loss("nt_xent", [VECTOR], schema=NtXentLossConfig)
class NtXentLoss(GatheringLoss):
    r"""Tells two views of a sample from all other samples of the batch; for learning embeddings without labels.

    With the cosine $s_{ij}$ of two embeddings and the temperature $\tau$, for each pair $(i, p)$ that belongs
    together: $L = -\log \frac{e^{s_{ip}/\tau}}{e^{s_{ip}/\tau} + \sum_n e^{s_{in}/\tau}}$, where $n$ are the samples
    that do not belong to $i$. With `pairing: labels`, a sample may have several positives, each a pair of its own, or
    none, and then counts as a negative only.

    Shapes: embeddings `(batch, dimensions)` and, for `pairing: labels`, targets `(batch,)`, which are ids; a scalar,
    or unreduced `(batch,)`, for labels `(batch, batch)`, 0 where there is no pair.
    Dtypes: embeddings any floating-point, computed in float32 at least; ids any integer.
    The negatives are those of the batch, with `gather` those of all ranks in training: the loss of a batch is not that
    of its parts.
    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020.

    >>> views = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    >>> NtXentLoss(temperature=1.0)(views)
    tensor(0.5514)
    """

    group_size = 2

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        pairing: str = "consecutive",
        gather: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(gather=gather, reduction=reduction)
        self.temperature = temperature
        self.pairing = pairing

    @classmethod
    def get_loss_inputs(cls) -> str:
        return LOGITS

    @classmethod
    def get_loss_targets(cls) -> tuple[str, ...]:
        return ()

    @classmethod
    def get_optional_loss_targets(cls) -> tuple[str, ...]:
        return (TARGETS,)

    def forward(self, embedding: Tensor, targets: Tensor | None = None) -> Tensor:
        return nt_xent_loss(embedding, targets, **self.current_settings())


class _OfTwoEmbeddings(GatheringLoss):
    """For losses of two embeddings, of which rows of the same number belong together."""

    @classmethod
    def get_loss_inputs(cls) -> tuple[str, ...]:
        return "embedding_1", "embedding_2"

    @classmethod
    def get_loss_targets(cls) -> tuple[str, ...]:
        return ()

    def nothing(self, device: torch.device) -> tuple[Tensor, ...]:
        """Two embeddings of no samples."""
        return torch.zeros(0, 1, device=device), torch.zeros(0, 1, device=device)


def contrastive_loss(
    embedding_1: Tensor,
    embedding_2: Tensor,
    *,
    temperature: Tensor | float = 0.07,
    normalize: bool = False,
    symmetric: bool = True,
    gather: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """See `ContrastiveLoss`."""
    require_alike(embedding_1, embedding_2, ("embedding_1", "embedding_2"))
    one = embeddings(embedding_1, "embedding_1")
    other = embeddings(embedding_2, "embedding_2").to(one.dtype)
    if gather:
        one, other = gathered(one, other)
    divisor = _temperature(temperature, one.dtype)
    size = len(one)
    own = torch.arange(size, device=one.device)

    def plain(one: Tensor, other: Tensor, divisor: Tensor | float = divisor) -> Tensor:
        if normalize:
            one, other = unit(one), unit(other)
        logits = products(one, other) / divisor
        values = F.cross_entropy(logits, own, reduction="none")
        if symmetric:
            values = (values + F.cross_entropy(logits.T, own, reduction="none")) / 2
        return reduce(values, reduction)

    inputs, fixed = ([one, other, divisor], 1.0) if isinstance(divisor, Tensor) else ([one, other], divisor)
    kernel = kernel_of_partners(own, normalize=normalize, temperature=fixed, of_columns=symmetric)
    return fused.reduced(kernel, plain, inputs, reduction, count=size, **when_worth_it(size))


def _temperature(temperature: Tensor | float, dtype: torch.dtype) -> Tensor | float:
    if not isinstance(temperature, Tensor):
        return temperature
    if temperature.numel() != 1:
        raise ValueError(f"temperature {tuple(temperature.shape)} must be a single number")
    temperature = floating(temperature, "temperature").reshape(()).to(dtype)
    message = "temperature must be above 0; let the model learn its logarithm, and give temperature.exp()"
    checking.require(temperature > 0, lambda: f"{message}; got {temperature.item():g}", message)
    return temperature


@register_loss("contrastive", [VECTOR], schema=ContrastiveLossConfig, aliases=["contrastive_loss", "info_nce", "clip"])
class ContrastiveLoss(_OfTwoEmbeddings):
    r"""Finds each sample's other half among those of the whole batch, as CLIP does for images and their captions.

    With $\ell_{ij} = x_i \cdot y_j / \tau$:
    $L = -\frac{1}{2} \left(\log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ij}}}
    + \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ji}}}\right)$; the first term alone where `symmetric` is false. If the
    predictions hold a `temperature`, a single number that the model may learn, that is $\tau$.

    Shapes: both embeddings `(batch, dimensions)`, alike; a scalar, or `(batch,)` unreduced. It takes no targets.
    Dtypes: any floating-point; computed in float32 at least.
    The negatives are those of the batch, with `gather` those of all ranks in training: the loss of a batch is not that
    of its parts.
    Source: van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018; Radford et al.,
    "Learning Transferable Visual Models From Natural Language Supervision", 2021; MMF's `contrastive_loss`.

    >>> ContrastiveLoss(temperature=1.0)(torch.eye(2), torch.eye(2))
    tensor(0.3133)
    """

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        normalize: bool = False,
        symmetric: bool = True,
        gather: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(gather=gather, reduction=reduction)
        self.temperature = temperature
        self.normalize = normalize
        self.symmetric = symmetric

    @classmethod
    def get_optional_loss_inputs(cls) -> tuple[str, ...]:
        return ("temperature",)

    def forward(self, embedding_1: Tensor, embedding_2: Tensor, *, temperature: Tensor | None = None) -> Tensor:
        settings: dict[str, Any] = self.current_settings()
        if temperature is not None:
            settings["temperature"] = temperature
        return contrastive_loss(embedding_1, embedding_2, **settings)


def in_batch_hinge_loss(
    embedding_1: Tensor,
    embedding_2: Tensor,
    *,
    margin: float = 0.0,
    hard: bool = False,
    gather: bool = False,
    reduction: str = "sum",
) -> Tensor:
    """See `InBatchHingeLoss`."""
    one, other = _matching(embedding_1, embedding_2)
    if gather:
        # All rows of the second that belong to one of the first in a row, so that ranks have one factor.
        one, other = gathered(one, other.reshape(len(one), -1) if len(one) else other)
        other = other.reshape(-1, one.shape[1])
    size = len(one)
    if size == 0:
        return reduce(products(one, other).sum(1), reduction)
    similarities = products(one, other).reshape(size, size, -1)
    own = similarities.diagonal().T
    others = ~diagonal_mask(similarities).unsqueeze(-1)
    forth = masked(F.relu(margin + similarities - own.unsqueeze(1)), others)
    back = masked(F.relu(margin + similarities - own.unsqueeze(0)), others)
    costs = forth.amax(1) + back.amax(0) if hard else forth.sum(1) + back.sum(0)
    return reduce(costs.sum(1), reduction)


def _matching(embedding_1: Tensor, embedding_2: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of the first; the second has as many rows as the first, or a multiple."""
    one, other = floating(embedding_1, "embedding_1"), floating(embedding_2, "embedding_2")
    fit = one.ndim == other.ndim == 2 and one.shape[1] == other.shape[1]
    if not fit or len(other) % max(len(one), 1) or (len(one) == 0) != (len(other) == 0):
        raise ValueError(
            f"embedding_1 {tuple(one.shape)} and embedding_2 {tuple(other.shape)} do not fit: they must both be "
            "(batch, dimensions), or embedding_2 has the same number of rows, one after the other, for each row of "
            "embedding_1"
        )
    return one, other.to(one.dtype)


@register_loss("in_batch_hinge", [VECTOR], schema=InBatchHingeLossConfig)
class InBatchHingeLoss(_OfTwoEmbeddings):
    r"""Asks that a pair, such as an image and its text, be more similar than its parts to others, by a margin.

    With the dot products $s_{ij} = x_i \cdot y_j$:
    $L = \sum_{i} \sum_{j \ne i} \max(0, m + s_{ij} - s_{ii}) + \max(0, m + s_{ji} - s_{ii})$; with `hard`, the largest
    of each sum. If the second embedding has several rows per row of the first, such as five texts per image, these are
    several losses that are added up.

    Shapes: embeddings `(batch, dimensions)` and `(batch * factor, dimensions)`, of which row $i \cdot factor + f$
    belongs to row $i$; a scalar, or `(batch,)` unreduced. It takes no targets.
    Dtypes: any floating-point; computed in float32 at least.
    The negatives are those of the batch, with `gather` those of all ranks in training: the loss of a batch is not that
    of its parts.
    Source: Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", 2018; MMF's
    `in_batch_hinge`.

    >>> InBatchHingeLoss(margin=0.2)(torch.eye(2), torch.tensor([[1.0, 0.0], [0.9, 1.0]]))
    tensor(0.2000)
    """

    def __init__(
        self, *, margin: float = 0.0, hard: bool = False, gather: bool = False, reduction: str = "sum"
    ) -> None:
        super().__init__(gather=gather, reduction=reduction)
        self.margin = margin
        self.hard = hard

    def forward(self, embedding_1: Tensor, embedding_2: Tensor) -> Tensor:
        return in_batch_hinge_loss(embedding_1, embedding_2, **self.current_settings())
