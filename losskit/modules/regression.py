"""Losses between two real-valued tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from losskit.constants import AUDIO, IMAGE, NUMBER, TIMESERIES, VECTOR
from losskit.modules.base import AdditiveLoss
from losskit.modules.reduction import reduce, reduce_sum
from losskit.modules.shapes import alike
from losskit.registry import register_loss
from losskit.schema.regression import HuberLossConfig, MeanAbsoluteErrorLossConfig, MeanSquaredErrorLossConfig


def _reduced(
    torch_loss: Callable[..., Tensor],
    predictions: Tensor,
    targets: Tensor,
    reduction: str,
    normalizer: Tensor | float | None,
) -> Tensor:
    """One of torch's elementwise losses between tensors that are alike, with our reduction."""
    predictions, targets = alike(predictions, targets)
    if reduction == "none":
        return reduce(torch_loss(predictions, targets, reduction="none"), reduction, normalizer=normalizer)
    total = torch_loss(predictions, targets, reduction="sum")
    return reduce_sum(total, reduction, predictions.numel(), normalizer)


def mean_squared_error_loss(
    predictions: Tensor, targets: Tensor, *, reduction: str = "mean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `MeanSquaredErrorLoss`."""
    return _reduced(F.mse_loss, predictions, targets, reduction, normalizer)


@register_loss(
    "mean_squared_error",
    [NUMBER, TIMESERIES, VECTOR, IMAGE, AUDIO],
    schema=MeanSquaredErrorLossConfig,
    aliases=["mse", "l2"],
)
class MeanSquaredErrorLoss(AdditiveLoss):
    r"""Squares errors, so that one large error counts more than many small ones; the best guess is the mean.

    $L = (\hat y - y)^2$

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least. Source: `torch.nn.MSELoss`, whose values it has.

    >>> MeanSquaredErrorLoss()(torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0]))
    tensor(4.6250)
    """

    def forward(self, predictions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return mean_squared_error_loss(predictions, targets, **self.settings(), normalizer=normalizer)


def mean_absolute_error_loss(
    predictions: Tensor, targets: Tensor, *, reduction: str = "mean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `MeanAbsoluteErrorLoss`."""
    return _reduced(F.l1_loss, predictions, targets, reduction, normalizer)


@register_loss(
    "mean_absolute_error",
    [NUMBER, TIMESERIES, VECTOR, IMAGE, AUDIO],
    schema=MeanAbsoluteErrorLossConfig,
    aliases=["mae", "l1"],
)
class MeanAbsoluteErrorLoss(AdditiveLoss):
    r"""Counts each error by its size, so that outliers pull no harder than others; the best guess is the median.

    $L = |\hat y - y|$, with gradient 0 where they are equal.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least. Source: `torch.nn.L1Loss`, whose values it has.

    >>> MeanAbsoluteErrorLoss()(torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0]))
    tensor(1.7500)
    """

    def forward(self, predictions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return mean_absolute_error_loss(predictions, targets, **self.settings(), normalizer=normalizer)


def huber_loss(
    predictions: Tensor,
    targets: Tensor,
    *,
    delta: float = 1.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `HuberLoss`."""
    return _reduced(functools.partial(F.huber_loss, delta=delta), predictions, targets, reduction, normalizer)


@register_loss("huber", [NUMBER, TIMESERIES, VECTOR], schema=HuberLossConfig)
class HuberLoss(AdditiveLoss):
    r"""Quadratic for small errors, linear for large ones, so that outliers pull less than in squared error.

    With $e = |\hat y - y|$: $L = e^2/2$ where $e \le \delta$, else $\delta(e - \delta/2)$.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least.
    Source: Huber, "Robust Estimation of a Location Parameter", 1964; `torch.nn.HuberLoss`, whose values it has.

    >>> HuberLoss(delta=1.0)(torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0]))
    tensor(1.3125)
    """

    def __init__(self, *, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, predictions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return huber_loss(predictions, targets, **self.settings(), normalizer=normalizer)
