"""Losses between two real-valued tensors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import AUDIO, IMAGE, NUMBER, TIMESERIES, VECTOR
from losskit.modules import fused
from losskit.modules.base import AdditiveLoss, Loss
from losskit.modules.fused_elements import Elements, absolute_errors, kernel_of_elements, squared_errors
from losskit.modules.reduction import divide, reduce, reduced_by_torch
from losskit.modules.shapes import alike, are_alike, are_usual
from losskit.registry import register_loss
from losskit.schema.regression import (
    HuberLossConfig,
    MeanAbsoluteErrorLossConfig,
    MeanAbsolutePercentageErrorLossConfig,
    MeanSquaredErrorLossConfig,
    RootMeanSquaredErrorLossConfig,
    RootMeanSquaredPercentageErrorLossConfig,
    SmoothL1LossConfig,
)

_Kernel = tuple[Elements, int]


def _reduced(
    torch_loss: Callable[..., Tensor],
    predictions: Tensor,
    targets: Tensor,
    reduction: str,
    normalizer: Tensor | float | None,
    kernel: _Kernel | None = None,
) -> Tensor:
    """One of torch's elementwise losses between tensors that are alike, with our reduction.

    Args:
        torch_loss: torch's function.
        predictions: as in the loss.
        targets: as in the loss.
        reduction: as in the loss.
        normalizer: as in the loss.
        kernel: a faster way, and for what multiple of the usual size it is that.
    """

    def plain(predictions: Tensor) -> Tensor:
        found, others = alike(predictions, targets)
        return reduced_by_torch(lambda how: torch_loss(found, others, reduction=how), found, reduction, normalizer)

    if kernel is None or not are_alike(predictions, targets) or not _takes(kernel, predictions):
        return plain(predictions)
    elements = kernel_of_elements(kernel[0], targets)
    return fused.reduced(elements, plain, [predictions], reduction, normalizer=normalizer, constants=[targets])


def _takes(kernel: _Kernel, predictions: Tensor) -> bool:
    return fused.can_fuse(predictions, times_least_size=kernel[1])


# torch's own squared errors are a single pass; of absolute errors it keeps more.
_SQUARED, _ABSOLUTE = (squared_errors, 16), (absolute_errors, 8)


class _ElementwiseLoss(AdditiveLoss):
    """One of torch's elementwise losses."""

    # Ours with all settings, and torch's mean of tensors that are alike.
    function: ClassVar[Callable[..., Tensor]]
    torch_mean: Callable[[Tensor, Tensor], Tensor]
    # A faster way for large tensors.
    kernel: ClassVar[_Kernel | None] = None

    def forward(self, predictions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        # At once, where there is nothing to convert or to look at: on small tensors, calls take as long as the loss.
        is_usual = normalizer is None and self.reduction == "mean" and are_usual(predictions, targets)
        if is_usual and (self.kernel is None or not _takes(self.kernel, predictions)):
            return self.torch_mean(predictions, targets)
        return self.function(predictions, targets, **self.settings(), normalizer=normalizer)


def mean_squared_error_loss(
    predictions: Tensor, targets: Tensor, *, reduction: str = "mean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `MeanSquaredErrorLoss`."""
    return _reduced(F.mse_loss, predictions, targets, reduction, normalizer, _SQUARED)


@register_loss(
    "mean_squared_error",
    [NUMBER, TIMESERIES, VECTOR, IMAGE, AUDIO],
    schema=MeanSquaredErrorLossConfig,
    aliases=["mse", "l2"],
)
class MeanSquaredErrorLoss(_ElementwiseLoss):
    r"""Squares errors, so that one large error counts more than many small ones; the best guess is the mean.

    $L = (\hat y - y)^2$

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least. Source: `torch.nn.MSELoss`, whose values it has.

    >>> MeanSquaredErrorLoss()(torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0]))
    tensor(4.6250)
    """

    function = staticmethod(mean_squared_error_loss)
    torch_mean = staticmethod(F.mse_loss)
    kernel = _SQUARED


def mean_absolute_error_loss(
    predictions: Tensor, targets: Tensor, *, reduction: str = "mean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `MeanAbsoluteErrorLoss`."""
    return _reduced(F.l1_loss, predictions, targets, reduction, normalizer, _ABSOLUTE)


@register_loss(
    "mean_absolute_error",
    [NUMBER, TIMESERIES, VECTOR, IMAGE, AUDIO],
    schema=MeanAbsoluteErrorLossConfig,
    aliases=["mae", "l1"],
)
class MeanAbsoluteErrorLoss(_ElementwiseLoss):
    r"""Counts each error by its size, so that outliers pull no harder than others; the best guess is the median.

    $L = |\hat y - y|$, with gradient 0 where they are equal.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least. Source: `torch.nn.L1Loss`, whose values it has.

    >>> MeanAbsoluteErrorLoss()(torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0]))
    tensor(1.7500)
    """

    function = staticmethod(mean_absolute_error_loss)
    torch_mean = staticmethod(F.l1_loss)
    kernel = _ABSOLUTE


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
class HuberLoss(_ElementwiseLoss):
    r"""Quadratic for small errors, linear for large ones, so that outliers pull less than in squared error.

    With $e = |\hat y - y|$: $L = e^2/2$ where $e \le \delta$, else $\delta(e - \delta/2)$. It is `delta` times
    `smooth_l1` with that `beta`.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least.
    Source: Huber, "Robust Estimation of a Location Parameter", 1964; `torch.nn.HuberLoss`, whose values it has.

    >>> HuberLoss(delta=1.0)(torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0]))
    tensor(1.3125)
    """

    function = staticmethod(huber_loss)

    def __init__(self, *, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.delta = delta

    def torch_mean(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """torch's mean, with its setting."""
        return F.huber_loss(predictions, targets, delta=self.delta)


def smooth_l1_loss(
    predictions: Tensor,
    targets: Tensor,
    *,
    beta: float = 1.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `SmoothL1Loss`."""
    return _reduced(functools.partial(F.smooth_l1_loss, beta=beta), predictions, targets, reduction, normalizer)


@register_loss("smooth_l1", [NUMBER, TIMESERIES, VECTOR, IMAGE], schema=SmoothL1LossConfig)
class SmoothL1Loss(_ElementwiseLoss):
    r"""Absolute error with its corner rounded off, so that small errors pull gently; usual for boxes and keypoints.

    With $e = |\hat y - y|$: $L = e^2 / (2 \beta)$ where $e < \beta$, else $e - \beta / 2$; with $\beta = 0$ it is
    absolute error. `huber` is `delta` times this loss with `beta` of that value: there the slope of large errors is
    `delta`, here it is 1.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least.
    Source: Girshick, "Fast R-CNN", 2015; `torch.nn.SmoothL1Loss`, whose values it has.

    >>> SmoothL1Loss(beta=2.0)(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0]))
    tensor(1.1250)
    """

    function = staticmethod(smooth_l1_loss)

    def __init__(self, *, beta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.beta = beta

    def torch_mean(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """torch's mean, with its setting."""
        return F.smooth_l1_loss(predictions, targets, beta=self.beta)


def mean_absolute_percentage_error_loss(
    predictions: Tensor,
    targets: Tensor,
    *,
    eps: float = 1.17e-6,
    as_percent: bool = False,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `MeanAbsolutePercentageErrorLoss`."""
    predictions, targets = alike(predictions, targets)
    values = (predictions - targets).abs() / targets.abs().clamp_min(eps)
    return reduce(100 * values if as_percent else values, reduction, normalizer=normalizer)


@register_loss(
    "mean_absolute_percentage_error",
    [NUMBER, TIMESERIES, VECTOR],
    schema=MeanAbsolutePercentageErrorLossConfig,
    aliases=["mape"],
)
class MeanAbsolutePercentageErrorLoss(AdditiveLoss):
    r"""Measures errors as a share of the target, for targets of very different sizes that stay away from 0.

    $L = |\hat y - y| / \max(|y|, \varepsilon)$, times 100 with `as_percent`.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: any floating-point; computed in float32 at least.
    Source: de Myttenaere et al., "Mean Absolute Percentage Error for Regression Models", 2016; with the defaults it
    has the values of Ludwig and torchmetrics, with `eps=1e-7, as_percent=True` those of Keras.

    >>> MeanAbsolutePercentageErrorLoss()(torch.tensor([90.0, 3.0]), torch.tensor([100.0, 2.0]))
    tensor(0.3000)
    """

    def __init__(self, *, eps: float = 1.17e-6, as_percent: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.eps = eps
        self.as_percent = as_percent

    def forward(self, predictions: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return mean_absolute_percentage_error_loss(predictions, targets, **self.settings(), normalizer=normalizer)


def root_mean_squared_error_loss(predictions: Tensor, targets: Tensor, *, eps: float = 0.0) -> Tensor:
    """See `RootMeanSquaredErrorLoss`."""
    predictions, targets = alike(predictions, targets)
    return _root_of_mean((predictions - targets).square(), eps)


@register_loss(
    "root_mean_squared_error", [NUMBER, TIMESERIES, VECTOR], schema=RootMeanSquaredErrorLossConfig, aliases=["rmse"]
)
class RootMeanSquaredErrorLoss(Loss):
    r"""The root of the mean squared error, in the unit of the targets; its gradient does not fade as errors shrink.

    $L = \sqrt{\varepsilon + \frac1n \sum (\hat y - y)^2}$ over all elements of the batch. At a perfect fit, where
    the root has no slope, the gradient is 0. A root of a mean is no sum over items: the values of parts of a batch do
    not add up to that of the whole.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar.
    Dtypes: any floating-point; computed in float32 at least.
    Source: Ludwig, whose values it has.

    >>> RootMeanSquaredErrorLoss()(torch.tensor([0.0, 7.0]), torch.tensor([1.0, 0.0]))
    tensor(5.)
    """

    is_elementwise = True

    def __init__(self, *, eps: float = 0.0) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return root_mean_squared_error_loss(predictions, targets, **self.settings())


def root_mean_squared_percentage_error_loss(predictions: Tensor, targets: Tensor, *, eps: float = 1e-4) -> Tensor:
    """See `RootMeanSquaredPercentageErrorLoss`."""
    predictions, targets = alike(predictions, targets)
    return _root_of_mean(((predictions - targets) / targets.abs().clamp_min(eps)).square())


@register_loss(
    "root_mean_squared_percentage_error",
    [NUMBER, TIMESERIES, VECTOR],
    schema=RootMeanSquaredPercentageErrorLossConfig,
    aliases=["rmspe"],
)
class RootMeanSquaredPercentageErrorLoss(Loss):
    r"""The root of the mean squared error as a share of the target, where a few large relative errors should count.

    $L = \sqrt{\frac1n \sum \left(\frac{\hat y - y}{\max(|y|, \varepsilon)}\right)^2}$ over all elements of the
    batch; at a perfect fit the gradient is 0. A root of a mean is no sum over items: the values of parts of a batch do
    not add up to that of the whole.

    Shapes: predictions and targets `(batch, ...)`, alike; a scalar.
    Dtypes: any floating-point; computed in float32 at least.
    Source: Ludwig, whose values it has for targets of 0 and for those of size `eps` or more; between them Ludwig
    divides by the target, however small.

    >>> RootMeanSquaredPercentageErrorLoss()(torch.tensor([90.0, 3.4]), torch.tensor([100.0, 2.0]))
    tensor(0.5000)
    """

    is_elementwise = True

    def __init__(self, *, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return root_mean_squared_percentage_error_loss(predictions, targets, **self.settings())


def _root_of_mean(squares: Tensor, eps: float = 0.0) -> Tensor:
    """The root of the mean plus `eps`; where either is nothing, 0 with a gradient of 0."""
    total = squares.sum()
    if squares.numel() == 0:
        return total
    mean = divide(total, squares.numel()) + eps
    # The root's slope at 0 is infinite, and a gradient of infinity times 0 would be NaN.
    root = torch.where(mean == 0, torch.ones_like(mean), mean).sqrt()
    return torch.where(mean == 0, torch.zeros_like(mean), root)
