"""Losses whose probabilities can be exactly 0: Fenchel-Young losses of Tsallis entropies.

With the entropies of order $\\alpha$, $p$ maximises $z \\cdot p + (1 - \\sum_c p_c^\\alpha) / (\\alpha (\\alpha - 1))$,
and has the form $p_c = [(\\alpha - 1) z_c - \\tau]_+^{1/(\\alpha-1)}$ with the $\\tau$ for which it sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from losskit.constants import CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, SEQUENCE, TEXT
from losskit.modules import fused
from losskit.modules.class_ids import ClassIdsLoss
from losskit.modules.fused_tempered import TIMES_LEAST_SIZE, kernel_of_sparse
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import Classes, read_classes
from losskit.registry import register_loss
from losskit.schema.sparse import Entmax15LossConfig, SparsemaxLossConfig


def sparsemax_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = -100,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `SparsemaxLoss`."""
    return _reduced(logits, targets, 0.0, _sparsemax_values, ignore_index, class_axis, reduction, normalizer)


def _sparsemax_values(given: Classes) -> Tensor:
    scores = _relative(given)
    support = _sparsemax_support(scores.detach())
    tau = (_within(scores, support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    probabilities = _within(scores - tau, support)
    # The least of tau + (1 + sum of [z - tau]^2) / 2 over all tau, which makes the gradient p - y.
    highest = tau.squeeze(-1) + (1 + probabilities.square().sum(-1)) / 2
    values = highest - _of_labels(scores, given)
    if not given.are_ids:
        values = values - (1 - given.targets.square().sum(given.axis)) / 2
    return values


@register_loss("sparsemax", [CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, SEQUENCE, TEXT], schema=SparsemaxLossConfig)
class SparsemaxLoss(ClassIdsLoss):
    r"""Cross-entropy's sparse relative: unlikely classes get probability 0, and a clear margin over them costs nothing.

    With $p$ the point nearest to $z$ among all probabilities, and labels $y$: $L = z \cdot (p - y) + \frac12 (\lVert y
    \rVert^2 - \lVert p \rVert^2)$. Its gradient is $p - y$. It is 0 where the right logit exceeds all others by 1.

    Shapes: logits `(batch, classes, ...)`, for sequences and text `(batch, ..., classes)`; targets `(batch, ...)` ids
    or, shaped like the logits, probabilities; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Martins and Astudillo, "From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label
    Classification", 2016.

    >>> SparsemaxLoss()(torch.tensor([[0.5, 0.0, -2.0]]), torch.tensor([0]))
    tensor(0.0625)
    """

    function = staticmethod(sparsemax_loss)


def entmax15_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int | None = -100,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `Entmax15Loss`."""
    return _reduced(logits, targets, 0.5, _entmax15_values, ignore_index, class_axis, reduction, normalizer)


def _entmax15_values(given: Classes) -> Tensor:
    scores = _relative(given)
    halves = scores / 2
    support = _entmax15_support(halves.detach())
    size = support.sum(-1, keepdim=True)
    mean = _within(halves, support).sum(-1, keepdim=True) / size
    spread = _within(halves - mean, support).square().sum(-1, keepdim=True)
    # The sum of (z/2 - tau)^2 over the support is 1, so that (mean - tau)^2 is what its spread leaves of 1, shared
    # out, and never below 1 / size^2.
    rest = ((1 - spread) / size).clamp_min(torch.finfo(scores.dtype).tiny)
    tau = mean - rest.sqrt()
    roots = _within(halves - tau, support).clamp_min(0)
    # The least of 2 tau + 4/3 + (2/3) sum of [z/2 - tau]^3 over all tau, which makes the gradient p - y.
    highest = 2 * tau.squeeze(-1) + (4 + 2 * (roots * roots.square()).sum(-1)) / 3
    values = highest - _of_labels(scores, given)
    if not given.are_ids:
        values = values - 4 / 3 * (1 - (given.targets * _root(given.targets)).sum(given.axis))
    return values


@register_loss("entmax15", [CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, SEQUENCE, TEXT], schema=Entmax15LossConfig)
class Entmax15Loss(ClassIdsLoss):
    r"""Between cross-entropy and sparsemax: unlikely classes get probability 0, and probabilities change smoothly.

    With $p_c = [z_c / 2 - \tau]_+^2$, where $\tau$ makes it sum to 1, and labels $y$: $L = z \cdot (p - y) + \frac43
    \sum_c (y_c^{3/2} - p_c^{3/2})$. Its gradient is $p - y$. It is 0 where the right logit exceeds all others by 2.

    Shapes: logits `(batch, classes, ...)`, for sequences and text `(batch, ..., classes)`; targets `(batch, ...)` ids
    or, shaped like the logits, probabilities; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Peters, Niculae and Martins, "Sparse Sequence-to-Sequence Models", 2019.

    >>> Entmax15Loss()(torch.tensor([[2.0, 2.0, -2.0]]), torch.tensor([0]))
    tensor(0.3905)
    """

    function = staticmethod(entmax15_loss)


def _reduced(
    logits: Tensor,
    targets: Tensor,
    t: float,
    values_of: Callable[[Classes], Tensor],
    ignore_index: int | None,
    class_axis: int | None,
    reduction: str,
    normalizer: Tensor | float | None,
) -> Tensor:
    given = read_classes(logits, targets, axis=class_axis, ignore_index=ignore_index, upcast=False)
    count = given.num_items()

    def plain(logits: Tensor) -> Tensor:
        full = given.of(logits)
        return reduce(masked(values_of(full), full.valid), reduction, count=count, normalizer=normalizer)

    kernel = kernel_of_sparse(given, t)
    return fused.reduced(
        kernel,
        plain,
        [logits],
        reduction,
        count=count,
        normalizer=normalizer,
        constants=[targets],
        times_least_size=TIMES_LEAST_SIZE,
    )


def _relative(given: Classes) -> Tensor:
    """The logits relative to the largest, which changes no loss and keeps digits, with the classes last."""
    logits = given.logits.movedim(given.axis, -1)
    return logits - logits.detach().amax(-1, keepdim=True) if logits.shape[-1] else logits


def _within(values: Tensor, support: Tensor) -> Tensor:
    return torch.where(support, values, torch.zeros_like(values))


def _of_labels(scores: Tensor, given: Classes) -> Tensor:
    """The sum of the scores that the labels pick or weigh."""
    if given.are_ids:
        return scores.gather(-1, given.targets.unsqueeze(-1)).squeeze(-1)
    labels = given.targets.movedim(given.axis, -1)
    # A class of probability 0 that also cannot be, with a logit of -inf, costs nothing.
    return torch.where(labels == 0, torch.zeros_like(labels), labels * scores).sum(-1)


def _sparsemax_support(scores: Tensor) -> Tensor:
    """Which classes have a probability above 0, where the largest score is 0."""
    # No score below -1 is in the support: as -2 it stays out, and takes part in no overflow.
    ranked = scores.clamp_min(-2).sort(-1, descending=True).values
    sizes = _sizes(ranked)
    size = (1 + sizes * ranked > ranked.cumsum(-1)).sum(-1, keepdim=True)
    return scores >= ranked.gather(-1, size.clamp_min(1) - 1)


def _entmax15_support(halves: Tensor) -> Tensor:
    """Which classes have a probability above 0, where the largest half is 0."""
    ranked = halves.clamp_min(-2).sort(-1, descending=True).values
    sizes = _sizes(ranked)
    means, squares = ranked.cumsum(-1) / sizes, ranked.square().cumsum(-1) / sizes
    rest = 1 / sizes - (squares - means.square())
    size = (means - rest.clamp_min(0).sqrt() <= ranked).sum(-1, keepdim=True)
    return halves >= ranked.gather(-1, size.clamp_min(1) - 1)


def _sizes(ranked: Tensor) -> Tensor:
    return torch.arange(1, ranked.shape[-1] + 1, dtype=ranked.dtype, device=ranked.device)


def _root(x: Tensor) -> Tensor:
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).sqrt(), torch.zeros_like(x))
