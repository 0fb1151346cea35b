"""Classification that also learns from samples of no class, so that it is unsure of what it does not know."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import BINARY, CATEGORY
from losskit.modules import checking, sharing
from losskit.modules.base import AdditiveLoss
from losskit.modules.binary import finite_logits
from losskit.modules.reduction import reduce
from losskit.modules.shapes import alike, floating, read_classes, require_alike
from losskit.registry import register_loss
from losskit.schema.open_set import EntropicOpenSetLossConfig, ObjectosphereLossConfig


class _OpenSetLoss(AdditiveLoss):
    """For losses of class ids, or of yes-or-no labels with one logit each."""

    is_binary: bool | None = None
    takes_ids = True

    def set_feature_type(self, feature_type: str) -> None:
        """Says what kind of feature the loss is for; building from a config does."""
        self.is_binary = feature_type == BINARY


def entropic_open_set_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    background_class: int | None = None,
    is_binary: bool | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `EntropicOpenSetLoss`; `is_binary` says whether labels are yes or no, where the shapes leave it open."""
    values, _ = _entropic(logits, targets, background_class, is_binary)
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("entropic_open_set", [BINARY, CATEGORY], schema=EntropicOpenSetLossConfig)
class EntropicOpenSetLoss(_OpenSetLoss):
    r"""Cross-entropy for known samples, and for unknown ones the wish that all classes be equally likely.

    With $p = \mathrm{softmax}(z)$: $L = -\log p_y$ for samples of a known class $y$, and
    $L = -\frac{1}{C} \sum_c \log p_c$ over all $C$ logits for those of `background_class`; one mean over all of them.

    Shapes: logits `(batch, classes)` and class ids `(batch,)`; or, for yes-or-no labels, both `(batch,)`, an unknown
    sample then having the label one half. The background class may lie among the classes or outside, such as -1. A
    scalar, or `(batch,)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer, yes-or-no labels in any dtype.
    Source: Dhamija et al., "Reducing Network Agnostophobia", 2018.

    >>> EntropicOpenSetLoss(background_class=-1)(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, -1]))
    tensor(0.4100)
    """

    def __init__(self, *, background_class: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.background_class = background_class

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return entropic_open_set_loss(
            logits, targets, **self.settings(), is_binary=self.is_binary, normalizer=normalizer
        )


def objectosphere_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    features: Tensor | None = None,
    background_class: int | None = None,
    xi: float = 10.0,
    zeta: float = 0.1,
    is_binary: bool | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `ObjectosphereLoss`; `is_binary` says whether labels are yes or no, where the shapes leave it open."""
    values, known = _entropic(logits, targets, background_class, is_binary)
    if features is None:
        features = floating(logits, "logits", may_mask=True)
        features = features.masked_fill(features == -math.inf, 0)  # classes that cannot be have no length
        features = features.unsqueeze(1) if features.ndim == 1 else features
    else:
        features = floating(features, "features").to(values.dtype)
    if values.ndim != 1 or features.ndim != 2 or features.shape[:1] != values.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and features {tuple(features.shape)} do not fit: features must be "
            "(batch, dimensions), and logits (batch, classes) or (batch,)"
        )
    squares = features.square().sum(1)
    # At 0 no direction is longer than another; a fresh model whose features are 0 must still leave it.
    is_zero = (squares == 0).unsqueeze(1)
    norms = torch.where(is_zero, features + 1e-12, features).norm(dim=1)
    hinges = (xi - norms).clamp_min(0).square()
    values = values + torch.where(known, hinges, zeta * squares)
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("objectosphere", [BINARY, CATEGORY], schema=ObjectosphereLossConfig)
class ObjectosphereLoss(_OpenSetLoss):
    r"""The entropic open-set loss, and known samples get long features, unknown ones short: the length tells them.

    With features $f$ and the entropic open-set loss $L_E$: $L = L_E + \max(0, \xi - \lVert f \rVert)^2$ for known
    samples, and $L = L_E + \zeta \lVert f \rVert^2$ for those of `background_class`; one mean over all of them.

    Shapes: logits `(batch, classes)` and class ids `(batch,)`, or both `(batch,)` for yes-or-no labels. Optional:
    `features`, `(batch, dimensions)`, the paper's layer before the logits; without it, the logits take its place. A
    scalar, or `(batch,)` unreduced. Dtypes: as for the entropic open-set loss.
    Source: Dhamija et al., "Reducing Network Agnostophobia", 2018, whose one weight of both terms is 1 for known
    samples and `zeta` for unknown ones, as in Ludwig.

    >>> ObjectosphereLoss(background_class=2, xi=5.0)(torch.tensor([[3.0, 0.0]]), torch.tensor([0]))
    tensor(4.0486)
    """

    def __init__(
        self, *, background_class: int | None = None, xi: float = 10.0, zeta: float = 0.1, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.background_class = background_class
        self.xi = xi
        self.zeta = zeta

    @classmethod
    def get_optional_loss_inputs(cls) -> tuple[str, ...]:
        return ("features",)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        features: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        return objectosphere_loss(
            logits, targets, features=features, **self.settings(), is_binary=self.is_binary, normalizer=normalizer
        )


def _entropic(
    logits: Tensor, targets: Tensor, background_class: int | None, is_binary: bool | None
) -> tuple[Tensor, Tensor]:
    """The entropic open-set loss of each sample, and which samples are of a known class."""
    has_one_axis = isinstance(logits, Tensor) and logits.ndim == 1
    if is_binary is None:
        is_binary = has_one_axis and isinstance(targets, Tensor) and targets.ndim > 0
    if is_binary and has_one_axis:
        return _entropic_of_one_logit(logits, targets, background_class)
    if isinstance(logits, Tensor) and logits.ndim > 1 and logits.shape[1] == 1:
        require_alike(logits, targets, ("logits", "targets"))  # one class is no choice: yes or no was meant
    given = read_classes(logits, targets, axis=1, ignore_index=background_class)
    if not given.are_ids:
        raise TypeError(
            f"targets {tuple(targets.shape)} are probabilities, but the class of each sample must be known: give class "
            f"ids {tuple(logits.shape[:1] + logits.shape[2:])}"
        )
    log_probabilities = sharing.log_softmax(given.logits, given.axis)
    values = -log_probabilities.gather(given.axis, given.targets.unsqueeze(given.axis)).squeeze(given.axis)
    if given.valid is None:
        return values, torch.ones_like(values, dtype=torch.bool)
    # Logits of -inf mark classes that cannot be: the others are to be equally likely.
    possible = log_probabilities > -math.inf
    spread = torch.where(possible, -log_probabilities, torch.zeros_like(log_probabilities))
    uniform = spread.sum(given.axis) / possible.sum(given.axis)
    return torch.where(given.valid, values, uniform), given.valid


def _entropic_of_one_logit(logits: Tensor, targets: Tensor, background_class: int | None) -> tuple[Tensor, Tensor]:
    logits, labels = alike(logits, targets, ("logits", "targets"))
    known = torch.ones_like(labels, dtype=torch.bool) if background_class is None else labels != background_class
    message = "targets hold a value that is neither between 0 and 1 nor the background class"
    checking.require_each(((labels >= 0) & (labels <= 1)) | ~known, labels, message)
    labels = torch.where(known, labels, torch.full_like(labels, 0.5))
    return F.binary_cross_entropy_with_logits(finite_logits(logits), labels, reduction="none"), known
