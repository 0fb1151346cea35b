"""Negative log likelihoods of distributions over numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import LOGITS, NUMBER, TIMESERIES, VARIANCE, VECTOR
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.reduction import reduce
from losskit.modules.shapes import alike, floating
from losskit.registry import register_loss
from losskit.schema.likelihood import GaussianNllLossConfig, PoissonNllLossConfig

# The logarithm of the highest rate, 6e27: with it, predictions of 1e4 and sums over a million items stay finite.
_MAX_LOG_RATE = 64.0
_VAR_FORMS = ("variance", "log_variance", "std")


def poisson_nll_loss(
    predictions: Tensor,
    targets: Tensor,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `PoissonNllLoss`."""
    predictions, targets = alike(predictions, targets)
    checking.require_between(targets, "targets", 0, math.inf)
    is_quick = log_input and not full and checking.can_be_quick(predictions, reduction, normalizer)
    if is_quick and predictions.numel() and predictions.amax().item() <= _MAX_LOG_RATE:
        return F.poisson_nll_loss(predictions, targets)
    if log_input:
        values = _exp(predictions) - targets * predictions
    else:
        cure = "; with log_input they may be any numbers"
        checking.require_each(~(predictions < 0), predictions, "predictions hold a negative rate", cure)
        values = predictions - targets * (predictions + eps).log()
    if full:
        # The formula is no approximation below 1, and NaN at 0.
        counts = torch.where(targets > 1, targets, torch.ones_like(targets))
        stirling = counts * counts.log() - counts + 0.5 * (2 * math.pi * counts).log()
        values = values + torch.where(targets > 1, stirling, torch.zeros_like(targets))
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("poisson_nll", [NUMBER, TIMESERIES, VECTOR], schema=PoissonNllLossConfig)
class PoissonNllLoss(AdditiveLoss):
    r"""How unlikely counts are under predicted rates; for numbers of events, such as visits or defects.

    With `log_input`: $L = e^{\hat y} - y \hat y$; else $L = \hat y - y \log(\hat y + \varepsilon)$. `full` adds, where
    $y > 1$, $y \log y - y + \frac12 \log(2 \pi y)$, which is nearly $\log y!$. Above $\hat y = 64$, rates beyond all
    counts, the exponential goes on as a straight line, so that a wild prediction is not infinitely wrong.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: predictions any floating-point, computed in float32 at least; targets any numbers, 0 or more.
    Source: `torch.nn.PoissonNLLLoss`, whose values it has. Keras's `Poisson` is `log_input=False, eps=1e-7`.

    >>> PoissonNllLoss()(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 3.0]))
    tensor(0.3591)
    """

    def __init__(
        self, *, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, predictions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return poisson_nll_loss(predictions, targets, **self.settings(), normalizer=normalizer)

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Numbers that are rates as well as logarithms of rates, and counts, among them 0 and 1."""
        shape = {NUMBER: (6,), TIMESERIES: (6, 4), VECTOR: (6, sizes.dimensions)}[feature_type]
        predictions = torch.randn(shape, generator=generator).abs() + 0.1
        return (predictions,), (torch.randint(6, shape, generator=generator).float(),)


def gaussian_nll_loss(
    predictions: Tensor,
    variances: Tensor,
    targets: Tensor,
    *,
    full: bool = False,
    eps: float = 1e-6,
    var_form: str = "variance",
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `GaussianNllLoss`."""
    checking.check_option("var_form", var_form, _VAR_FORMS)
    predictions, targets = alike(predictions, targets)
    variances = _along_predictions(floating(variances, "variances").to(predictions.dtype), predictions)
    if var_form == "log_variance":
        logs = variances.clamp_min(math.log(eps))
        values = 0.5 * (logs + (predictions - targets).square() * (-logs).exp())
    else:
        what = "variances" if var_form == "variance" else "standard deviations"
        cure = "; var_form: log_variance has no forbidden numbers"
        checking.require_each(~(variances < 0), variances, f"{what} hold a negative value", cure)
        if var_form == "variance":
            variances = variances.clamp_min(eps)
            values = 0.5 * (variances.log() + (predictions - targets).square() / variances)
        else:
            deviations = variances.clamp_min(math.sqrt(eps))
            values = deviations.log() + 0.5 * ((predictions - targets) / deviations).square()
    if full:
        values = values + 0.5 * math.log(2 * math.pi)
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("gaussian_nll", [NUMBER, TIMESERIES, VECTOR], schema=GaussianNllLossConfig)
class GaussianNllLoss(AdditiveLoss):
    r"""Squared error for models that also say how sure they are: errors cost less where a large variance is predicted.

    With the variance $v$, at least $\varepsilon$: $L = \frac12 (\log v + (\hat y - y)^2 / v)$, and with `full`
    $\frac12 \log 2 \pi$ more. A variance below $\varepsilon$ gets a gradient of 0. The three forms of variances
    have the same values; the logarithm has no forbidden numbers.

    Shapes: predictions and targets `(batch, ...)`, alike; variances like these, or with one variance for the last
    axis, which is then 1 or left out; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least.
    Source: Nix and Weigend, "Estimating the Mean and Variance of the Target Probability Distribution", 1994;
    `torch.nn.GaussianNLLLoss`, whose values it has. That one takes its variances last, and where they are below
    $\varepsilon$ gives them a gradient all the same, -5e11 for an error of 1.

    >>> GaussianNllLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.0]), torch.tensor([1.0, 0.0]))
    tensor(0.8466)
    """

    def __init__(
        self, *, full: bool = False, eps: float = 1e-6, var_form: str = "variance", reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.full = full
        self.eps = eps
        self.var_form = var_form

    @classmethod
    def get_loss_inputs(cls) -> tuple[str, ...]:
        return LOGITS, VARIANCE

    def forward(
        self, predictions: Tensor, variances: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        return gaussian_nll_loss(predictions, variances, targets, **self.settings(), normalizer=normalizer)


def _exp(x: Tensor) -> Tensor:
    """The exponential, and its tangent beyond the highest rate."""
    tangent = math.exp(_MAX_LOG_RATE) * (1 + (x - _MAX_LOG_RATE))
    return torch.where(x > _MAX_LOG_RATE, tangent, x.clamp_max(_MAX_LOG_RATE).exp())


def _along_predictions(variances: Tensor, predictions: Tensor) -> Tensor:
    """Variances that fit the predictions elementwise, or one for the last axis."""
    shape, found = tuple(predictions.shape), tuple(variances.shape)
    if found == shape or (shape and found == (*shape[:-1], 1)):
        return variances
    text = f"predictions {shape} and variances {found}"
    if not shape or found != shape[:-1]:
        allowed = dict.fromkeys([shape, (*shape[:-1], 1)] if shape else [shape])
        raise ValueError(f"{text} do not fit: variances must have the shape {' or '.join(map(str, allowed))}")
    if found == shape[1:] and variances.numel() > 1:
        cures = "variances.unsqueeze(-1), and one per dimension variances.expand_as(predictions)"
        raise ValueError(f"{text} fit in two ways: for one variance per sample give {cures}")
    return variances.unsqueeze(-1)
