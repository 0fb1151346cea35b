"""Losses between distributions over classes."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import CATEGORY_DISTRIBUTION, LOG_PROBABILITIES, SET, VECTOR
from losskit.modules import checking, sharing
from losskit.modules.base import AdditiveLoss, ClassAxisMixin, Loss, RowsLoss
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.binary import finite_logits, read_labels
from losskit.modules.reduction import WITH_BATCHMEAN, reduce, reduced_by_torch
from losskit.modules.shapes import are_usual, floating, require_alike, require_last_axis
from losskit.registry import register_loss
from losskit.schema.distribution import (
    BceKlCombinedLossConfig,
    BceKlLossConfig,
    KlDivLossConfig,
    SoftmaxKldivLossConfig,
    WeightedSoftmaxLossConfig,
)


def kl_div_loss(
    log_probabilities: Tensor,
    targets: Tensor,
    *,
    log_target: bool = False,
    from_logits: bool = False,
    class_axis: int | None = None,
    reduction: str = "batchmean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `KlDivLoss`."""
    is_quick = reduction == "batchmean" and normalizer is None and checking.can_peek(log_probabilities)
    if is_quick and not from_logits and log_probabilities.ndim and are_usual(log_probabilities, targets):
        value = F.kl_div(log_probabilities, targets, reduction="batchmean", log_target=log_target)
        if checking.if_finite(value) is not None:  # else there is a class without any probability
            return value
    name = "logits" if from_logits else LOG_PROBABILITIES
    log_p = floating(log_probabilities, name, may_mask=True)
    require_alike(log_p, targets, (name, "targets"))
    if targets.is_floating_point():
        targets = floating(targets, "targets", may_mask=log_target)
    targets = targets.to(log_p.dtype)
    _require_range(targets, "targets", log_target)
    if from_logits:
        require_last_axis(log_p, "(batch, classes)")
        log_p = sharing.log_softmax(log_p, 0 if log_p.ndim == 1 else class_axis or 1)
    else:
        _require_range(log_p, name, True)
    divergence = functools.partial(_divergence, log_p, targets, log_target=log_target)
    return reduced_by_torch(lambda how: divergence(reduction=how), log_p, reduction, normalizer)


@register_loss("kl_div", [CATEGORY_DISTRIBUTION, VECTOR], schema=KlDivLossConfig, aliases=["kl_divergence"])
class KlDivLoss(AdditiveLoss, ClassAxisMixin):
    r"""How far predicted distributions are from the true ones, the Kullback-Leibler divergence; for distillation.

    $L = \frac{1}{N} \sum_{n,c} y_{nc} (\log y_{nc} - \log p_{nc})$, where classes with $y = 0$ count nothing, even
    those with $p = 0$. The reduction `mean` divides by the number of classes too.

    Shapes: log-probabilities, or logits, and targets `(batch, classes, ...)`, alike; a scalar, or the same shape
    unreduced.
    Dtypes: log-probabilities any floating-point, computed in float32 at least; targets bool, integer or floating-point,
    0 or more, or with `log_target` their logarithms.
    Source: `torch.nn.KLDivLoss`, whose values it has; its default reduction is `mean`.

    >>> KlDivLoss()(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]))
    tensor(0.6931)
    """

    reductions = WITH_BATCHMEAN

    def __init__(self, *, log_target: bool = False, from_logits: bool = False, reduction: str = "batchmean") -> None:
        super().__init__(reduction=reduction)
        self.log_target = log_target
        self.from_logits = from_logits

    @classmethod
    def get_loss_inputs(cls) -> str:
        return LOG_PROBABILITIES

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Two distributions, also for vectors, of which not all are one."""
        logits, other = torch.randn(2, 6, sizes.classes, generator=generator)
        return (logits.log_softmax(1),), (other.softmax(1),)

    def forward(
        self, log_probabilities: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        return kl_div_loss(
            log_probabilities, targets, **self.settings(), class_axis=self.class_axis, normalizer=normalizer
        )


def softmax_kldiv_loss(
    logits: Tensor, targets: Tensor, *, reduction: str = "mean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `SoftmaxKldivLoss`."""
    divergence, _ = _softmax_divergence(*_read_scores(logits, targets))
    return reduce(divergence, reduction, normalizer=normalizer)


# MMF's `wrong` is the mean over samples and classes, times the number of classes.
@register_loss("softmax_kldiv", [SET, CATEGORY_DISTRIBUTION], schema=SoftmaxKldivLossConfig, aliases=["wrong"])
class SoftmaxKldivLoss(RowsLoss):
    r"""Makes the softmax of the logits share out as the scores of the labels do, such as how many people said what.

    With shares $q_c = y_c / \sum_k y_k$: $L = \sum_c q_c (\log q_c - \log \mathrm{softmax}(z)_c)$, averaged over
    samples. A sample whose scores are all 0 costs nothing.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or floating-point, 0 or more.
    Source: MMF's `softmax_kldiv`, and its `wrong`, which is the same.

    >>> SoftmaxKldivLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(0.6931)
    """

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return softmax_kldiv_loss(logits, targets, **self.settings(), normalizer=normalizer)


def weighted_softmax_loss(
    logits: Tensor, targets: Tensor, *, reduction: str = "mean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `WeightedSoftmaxLoss`."""
    divergence, totals = _softmax_divergence(*_read_scores(logits, targets))
    return reduce(divergence * totals, reduction, normalizer=normalizer)


@register_loss("weighted_softmax", [SET, CATEGORY_DISTRIBUTION], schema=WeightedSoftmaxLossConfig)
class WeightedSoftmaxLoss(RowsLoss):
    r"""As softmax_kldiv, but samples count by the sum of their scores, so that those with many answers count more.

    With shares $q_c = y_c / \sum_k y_k$: $L = \sum_k y_k \sum_c q_c (\log q_c - \log \mathrm{softmax}(z)_c)$, averaged
    over samples. A sample whose scores are all 0 costs nothing.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or floating-point, 0 or more.
    Source: MMF's `weighted_softmax`.

    >>> WeightedSoftmaxLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
    tensor(2.0794)
    """

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return weighted_softmax_loss(logits, targets, **self.settings(), normalizer=normalizer)


def bce_kl_combined_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weight_softmax: float = 1.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `BceKlCombinedLoss`."""
    divergence, cross_entropy = _divergence_and_cross_entropy(logits, targets)
    return reduce(weight_softmax * divergence + cross_entropy, reduction, normalizer=normalizer)


@register_loss("bce_kl_combined", [SET, CATEGORY_DISTRIBUTION], schema=BceKlCombinedLossConfig)
class BceKlCombinedLoss(RowsLoss):
    r"""Asks of each label whether it applies, and also that the softmax share out as the scores of the labels do.

    With shares $q_c = y_c / \sum_k y_k$ and $\lambda$ the `weight_softmax`:
    $L = \lambda \sum_c q_c (\log q_c - \log \mathrm{softmax}(z)_c)
    - \sum_c \left(y_c \log \sigma(z_c) + (1 - y_c) \log(1 - \sigma(z_c))\right)$, averaged over samples.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: MMF's `bce_kl_combined`.

    >>> BceKlCombinedLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    tensor(2.0794)
    """

    def __init__(self, *, weight_softmax: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.weight_softmax = weight_softmax

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return bce_kl_combined_loss(logits, targets, **self.settings(), normalizer=normalizer)


def bce_kl_loss(logits: Tensor, targets: Tensor, *, weight_softmax: float = 1.0) -> dict[str, Tensor]:
    """See `BceKlLoss`."""
    divergence, cross_entropy = _divergence_and_cross_entropy(logits, targets)
    return {"kl": weight_softmax * reduce(divergence, "mean"), "bce": reduce(cross_entropy, "mean")}


@register_loss("bce_kl", [SET, CATEGORY_DISTRIBUTION], schema=BceKlLossConfig)
class BceKlLoss(Loss):
    r"""As bce_kl_combined, but gives both parts, `kl` and `bce`, so that the log shows each; what counts is their sum.

    With shares $q_c = y_c / \sum_k y_k$ and $\lambda$ the `weight_softmax`, averaged over samples:
    $L_{kl} = \lambda \sum_c q_c (\log q_c - \log \mathrm{softmax}(z)_c)$ and
    $L_{bce} = -\sum_c \left(y_c \log \sigma(z_c) + (1 - y_c) \log(1 - \sigma(z_c))\right)$.

    Shapes: logits and targets `(batch, ..., classes)`, alike; two scalars.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: MMF's `bce_kl`.

    >>> BceKlLoss()(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
    {'kl': tensor(0.6931), 'bce': tensor(1.3863)}
    """

    def __init__(self, *, weight_softmax: float = 1.0) -> None:
        super().__init__()
        self.weight_softmax = weight_softmax

    def forward(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return bce_kl_loss(logits, targets, **self.settings())


def _divergence(log_p: Tensor, targets: Tensor, *, log_target: bool = False, reduction: str = "none") -> Tensor:
    """torch's, but for classes that are absent from the targets: 0 log 0 is 0, whatever the prediction."""
    absent = targets == (-math.inf if log_target else 0)
    log_p = log_p.masked_fill(absent, 0)
    if log_target:
        targets = targets.masked_fill(absent, 0)  # exp(0) * (0 - 0), where exp(-inf) * (-inf - x) would be NaN
    if reduction == "mean":  # of all elements, against which torch warns
        return F.kl_div(log_p, targets, reduction="sum", log_target=log_target) / log_p.numel()
    return F.kl_div(log_p, targets, reduction=reduction, log_target=log_target)


def _softmax_divergence(logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The divergence of each sample, and the sum of its scores."""
    totals = scores.sum(-1, keepdim=True)
    shares = scores / totals.masked_fill(totals == 0, 1)
    return _divergence(sharing.log_softmax(logits, -1), shares).sum(-1), totals.squeeze(-1)


def _divergence_and_cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logits, scores = _read_scores(logits, targets, highest=1.0)
    divergence, _ = _softmax_divergence(logits, scores)
    cross_entropy = F.binary_cross_entropy_with_logits(finite_logits(logits), scores, reduction="none")
    return divergence, cross_entropy.sum(-1)


def _read_scores(logits: Tensor, targets: Tensor, highest: float = math.inf) -> tuple[Tensor, Tensor]:
    logits, targets = read_labels(logits, targets, highest=highest)
    require_last_axis(logits, "(batch, classes)")
    return logits, targets


def _require_range(values: Tensor, name: str, are_logarithms: bool) -> None:
    """In debug mode, refuses what are no probabilities, or no logarithms of them, but for rounding."""
    low, high = (-math.inf, 1e-6) if are_logarithms else (0.0, math.inf)
    checking.require_between(values, name, low, high)
