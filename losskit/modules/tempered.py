"""Losses with a tempered logarithm and exponential.

$\\log_t x = (x^{1-t} - 1) / (1 - t)$ and its inverse $\\exp_t x = [1 + (1 - t) x]_+^{1/(1-t)}$ are the usual ones at
$t = 1$. The tempered softmax is $p_i = \\exp_t(z_i - \\lambda)$ with the $\\lambda$ that makes $\\sum_i p_i = 1$.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, SEQUENCE, TEXT
from losskit.modules import fused
from losskit.modules.class_ids import ClassIdsLoss
from losskit.modules.fused_tempered import TIMES_LEAST_SIZE, is_near, kernel_of_tempered, own_term, tempered_log
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import Classes, read_classes
from losskit.registry import register_loss
from losskit.schema.tempered import TemperedSoftmaxCrossEntropyLossConfig

# As many steps converge for any scores.
ENOUGH_STEPS = 5


def tempered_softmax_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    t1: float = 0.8,
    t2: float = 1.4,
    label_smoothing: float = 0.0,
    num_iters: int = 5,
    ignore_index: int | None = -100,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `TemperedSoftmaxCrossEntropyLoss`."""
    given = read_classes(logits, targets, axis=class_axis, ignore_index=ignore_index, upcast=False)
    count = given.num_items()

    def plain(logits: Tensor) -> Tensor:
        full = given.of(logits)
        values = _values(full, t1, t2, label_smoothing, num_iters)
        return reduce(masked(values, full.valid), reduction, count=count, normalizer=normalizer)

    if t2 < 1 and num_iters < ENOUGH_STEPS:
        return plain(logits)  # The kernel, which begins elsewhere, would differ by what is left to converge.
    kernel = kernel_of_tempered(given, t1, t2, label_smoothing, num_iters)
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


def _values(given: Classes, t1: float, t2: float, label_smoothing: float, num_iters: int) -> Tensor:
    """The loss of each item."""
    log_p = log_tempered_softmax(given.logits.movedim(given.axis, -1), t2, num_iters)
    num_classes = log_p.shape[-1]
    share = label_smoothing / max(num_classes - 1, 1)
    # Bregman divergence: sum over classes of y (log_t1 y - log_t1 p) - (y^(2 - t1) - p^(2 - t1)) / (2 - t1)
    log_t1_p = tempered_log(log_p, t1)
    if given.are_ids:
        label = 1 - label_smoothing if num_classes > 1 else 1.0
        chosen = log_t1_p.gather(-1, given.targets.unsqueeze(-1)).squeeze(-1)
        crossed = (label - share) * chosen
        if share:
            # With t1 = 1, a class that cannot be would cost infinitely much.
            finite = torch.where(log_t1_p > -math.inf, log_t1_p, torch.zeros_like(log_t1_p))
            crossed = crossed + share * finite.sum(-1)
        constant = own_term(label, t1) + (num_classes - 1) * own_term(share, t1)
    else:
        labels = given.targets.movedim(given.axis, -1)
        labels = (1 - label_smoothing - share) * labels + share
        counts = (given.targets.movedim(given.axis, -1) != 0) | ((log_t1_p > -math.inf) & bool(share))
        crossed = torch.where(counts, labels * log_t1_p, torch.zeros_like(labels)).sum(-1)
        constant = own_term(labels, t1).sum(-1)
    values: Tensor = constant - crossed + ((2 - t1) * log_p).exp().sum(-1) / (2 - t1)
    return values


@register_loss(
    "tempered_softmax_cross_entropy",
    [CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, SEQUENCE, TEXT],
    schema=TemperedSoftmaxCrossEntropyLossConfig,
    aliases=["bi_tempered_logistic"],
)
class TemperedSoftmaxCrossEntropyLoss(ClassIdsLoss):
    r"""Cross-entropy for noisy labels: bounded, so that no wrong label dominates, and heavy-tailed at the boundary.

    With $p$ the softmax of temperature $t_2$, $\log_t$ the logarithm of temperature $t$ and labels $y$: $L = \sum_c
    y_c (\log_{t_1} y_c - \log_{t_1} p_c) - (y_c^{2 - t_1} - p_c^{2 - t_1}) / (2 - t_1)$. With $t_1 = t_2 = 1$ it is
    cross-entropy. `label_smoothing` $\varepsilon$ leaves $1 - \varepsilon$ to the label and $\varepsilon / (C - 1)$
    to each other class. The softmax is normalised by Newton's method, which converges in 5 steps; after
    fewer the gradient is still that of the exact normalisation.

    Shapes: logits `(batch, classes, ...)`, for sequences and text `(batch, ..., classes)`; targets `(batch, ...)` ids
    or, shaped like the logits, probabilities; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Amid, Warmuth, Anil and Koren, "Robust Bi-Tempered Logistic Loss Based on Bregman Divergences", 2019.

    >>> TemperedSoftmaxCrossEntropyLoss(t1=1.0, t2=1.0)(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(0.2395)
    """

    function = staticmethod(tempered_softmax_cross_entropy_loss)

    def __init__(
        self,
        *,
        t1: float = 0.8,
        t2: float = 1.4,
        label_smoothing: float = 0.0,
        num_iters: int = 5,
        ignore_index: int | None = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self.t1 = t1
        self.t2 = t2
        self.label_smoothing = label_smoothing
        self.num_iters = num_iters


def log_tempered_softmax(logits: Tensor, t: float, num_iters: int = 5) -> Tensor:
    """The logarithm of the tempered softmax over the last axis; for t below 1, -inf where a probability is 0."""
    if t == 1:
        return F.log_softmax(logits, -1)
    # Relative to the largest logit, which the softmax does not depend on, few digits are lost.
    shifted = logits - logits.detach().amax(-1, keepdim=True) if logits.shape[-1] else logits
    if torch._C._are_functorch_transforms_active():
        # The transforms, forward mode among them, differentiate the steps themselves.
        return _log_p(shifted, _normalization(shifted, t, num_iters), t)
    found: Tensor = _Normalization.apply(shifted, t, num_iters)  # type: ignore[no-untyped-call]
    return _log_p(shifted, found, t)


def _normalization(scores: Tensor, t: float, num_iters: int) -> Tensor:
    r"""The $w$ with $\sum_i [w + (1 - t) z_i]_+^{1/(1-t)} = 1$ over the last axis, where the largest $z$ is 0.

    The steps are those of `fused_tempered`, where $w - 1$ is in use near $t = 1$. Above, they begin at 1. Below, more
    of them would be needed the more $p_i$ fall to 0. There, the power is convex, so that of the $k$ largest scores with
    the mean $m_k$, $S \ge k [w + (1 - t) m_k]^{1/(1-t)}$, and the solution is at most the least of $k^{t-1} - (1 - t)
    m_k$ for all $k$: a start from the same side, and close.
    """
    offset = torch.full_like(scores[..., :1], 0.0 if is_near(t) else 1.0)
    if t < 1 and scores.shape[-1]:
        # Scores below the least that can count stay out, and take part in no overflow.
        ranked = scores.clamp_min(-1 / (1 - t)).sort(-1, descending=True).values
        sizes = torch.arange(1, ranked.shape[-1] + 1, dtype=ranked.dtype, device=ranked.device)
        least = sizes.pow(t - 1) - (1 - t) * ranked.cumsum(-1) / sizes
        offset = offset + (least.amin(-1, keepdim=True) - 1)
    for _ in range(num_iters):
        log_p = _log_p(scores, offset, t)
        total, powers = log_p.exp().sum(-1, keepdim=True), (t * log_p).exp().sum(-1, keepdim=True)
        offset = offset + total / powers * torch.expm1((t - 1) * total.log())
    return offset


class _Normalization(torch.autograd.Function):
    r"""`_normalization` with its gradient, $\partial w / \partial z_i = (t - 1) p_i^t / Q$: no step is kept."""

    @staticmethod
    def forward(scores: Tensor, t: float, num_iters: int) -> Tensor:
        return _normalization(scores, t, num_iters)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.t = inputs[1]
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        # Made of differentiable operations on the input and the output, so that it can be differentiated again.
        scores, found = ctx.saved_tensors
        powers = (ctx.t * _log_p(scores, found, ctx.t)).exp()
        return (ctx.t - 1) * grad / powers.sum(-1, keepdim=True) * powers, None, None


def _log_p(scores: Tensor, offset: Tensor, t: float) -> Tensor:
    r"""$\log [w + (1 - t) z]_+ / (1 - t)$, -inf where the probability is 0."""
    inside = offset + (1 - t) * scores
    logarithm = torch.log1p if is_near(t) else torch.log
    if t > 1:
        return logarithm(inside) / (1 - t)
    # The branch that is not taken must have a finite gradient too.
    positive = inside > (-1 if is_near(t) else 0)
    taken = torch.where(positive, inside, torch.ones_like(inside))
    return torch.where(positive, logarithm(taken) / (1 - t), -math.inf)
