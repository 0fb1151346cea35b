"""Losses for labels that are yes or no."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import BINARY, IMAGE, PROBABILITIES, SET
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss, ClassAxisMixin
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.reduction import WITH_BATCHMEAN, reduce, reduced_by_torch
from losskit.modules.shapes import (
    alike,
    along,
    are_usual,
    class_constant,
    floating,
    require_alike,
    without_autocast,
)
from losskit.modules.torch_kinds import BceKind, BceWithLogitsKind
from losskit.registry import register_loss
from losskit.schema.binary import (
    BceLossConfig,
    BceWithLogitsLossConfig,
    BinaryWeightedCrossEntropyLossConfig,
)


def read_labels(logits: Tensor, targets: Tensor, *, highest: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits and, alike in shape, how much each label applies; logits of -inf mark labels that cannot apply.

    Raises:
        TypeError: the logits are no floating-point numbers.
        ValueError: the shapes differ.
    """
    logits = floating(logits, "logits", may_mask=True)
    require_alike(logits, targets, ("logits", "targets"))
    labels = targets.to(logits.dtype)
    checking.require_labels(labels, targets.dtype, highest)
    return logits, labels


def finite_logits(logits: Tensor) -> Tensor:
    """Infinite logits as the largest finite ones, so that one that is right costs 0 and not `0 * inf`.

    The gradient passes through as if nothing had happened: it is `sigmoid(z) - y` at infinity too.
    """
    finite = logits.clone()
    with torch.no_grad():
        finite.nan_to_num_(math.nan)
    return finite


class LabelAxisMixin(ClassAxisMixin):
    """For yes-or-no labels, which have their classes last in sets, at axis 1 in images, and none in binary features."""

    def set_feature_type(self, feature_type: str) -> None:
        self.class_axis = {IMAGE: 1, SET: -1}.get(feature_type)


def label_numbers(
    values: Tensor | None, name: str, inputs: Tensor, class_axis: int | None, role: str = "logits"
) -> Tensor | None:
    """Numbers per class that broadcast against the inputs.

    Raises:
        ValueError: the inputs have no class axis, or another number of classes.
    """
    if values is None:
        return None
    if class_axis is None:
        class_axis = 1 if inputs.ndim > 3 else -1
        fewest_axes = 2
    else:
        fewest_axes = 4 if class_axis == 1 else 1
    if inputs.ndim < fewest_axes:
        raise ValueError(f"{name} has a number per class, but {role} {tuple(inputs.shape)} have no class axis")
    found = class_constant(values, name, inputs, class_axis, role)
    return None if found is None else along(found, class_axis, inputs.ndim)


def read_probabilities(probabilities: Tensor, targets: Tensor, name: str = "probabilities") -> tuple[Tensor, Tensor]:
    """Probabilities, and targets alike in shape.

    Raises:
        TypeError: the probabilities are no floating-point numbers.
        ValueError: the shapes differ, or there are numbers outside 0 to 1.
    """
    probabilities, labels = alike(probabilities, targets, (name, "targets"))
    good = (probabilities >= 0) & (probabilities <= 1)
    cure = "; logits need a sigmoid or a softmax first, or bce_with_logits"
    checking.require_each(good, probabilities, f"{name} hold a value outside 0 to 1", cure)
    checking.require_labels(labels, targets.dtype)
    return probabilities, labels


def cross_entropy_of_probabilities(
    probabilities: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    reduction: str,
    normalizer: Tensor | float | None,
) -> Tensor:
    """torch's binary cross-entropy, under autocast too: what is unsafe there is half precision, and this is float32."""
    with without_autocast(probabilities):
        torch_loss = functools.partial(F.binary_cross_entropy, probabilities, targets, weight)
        return reduced_by_torch(lambda how: torch_loss(reduction=how), probabilities, reduction, normalizer)


def binary_weighted_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    positive_class_weight: float | Tensor | None = None,
    robust_lambda: float = 0.0,
    confidence_penalty: float = 0.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `BinaryWeightedCrossEntropyLoss`."""
    logits, targets = read_labels(logits, targets)
    logits = finite_logits(logits)
    weight = None
    if positive_class_weight is not None:
        weight = torch.as_tensor(positive_class_weight, dtype=logits.dtype, device=logits.device)
    values = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    if robust_lambda:
        values = (1 - robust_lambda) * values + robust_lambda / 2
    if confidence_penalty:
        values = values + confidence_penalty * (1 - _binary_entropy(logits) / math.log(2))
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("binary_weighted_cross_entropy", [BINARY], schema=BinaryWeightedCrossEntropyLossConfig)
class BinaryWeightedCrossEntropyLoss(AdditiveLoss, BceWithLogitsKind):
    r"""Cross-entropy of yes-or-no labels, where positive examples may count more than negative ones.

    With $p = \sigma(z)$ and $w$ the `positive_class_weight`: $L = -w\,y \log p - (1 - y) \log(1 - p)$.
    `robust_lambda` $\lambda$ makes it $(1 - \lambda) L + \lambda / 2$, `confidence_penalty` $a$ adds
    $a (1 - H(p) / \log 2)$ with the entropy $H$ of each prediction.

    Shapes: logits and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: `torch.nn.BCEWithLogitsLoss`; the other settings are Ludwig's, with the penalty taken per prediction
    (Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017).

    >>> BinaryWeightedCrossEntropyLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor(1.4100)
    """

    def __init__(
        self,
        *,
        positive_class_weight: float | None = None,
        robust_lambda: float = 0.0,
        confidence_penalty: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.positive_class_weight = positive_class_weight
        self.robust_lambda = robust_lambda
        self.confidence_penalty = confidence_penalty

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return binary_weighted_cross_entropy_loss(logits, targets, **self.settings(), normalizer=normalizer)


def _binary_entropy(logits: Tensor) -> Tensor:
    """The entropy of a coin with these log odds: $\\log(1 + e^{-|z|}) + |z| \\sigma(-|z|)$."""
    size = logits.abs()
    return F.softplus(-size) + size * (-size).sigmoid()


def bce_with_logits_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    pos_weight: float | Tensor | None = None,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `BceWithLogitsLoss`; `pos_weight` is a tensor where it has one number per class."""
    is_usual = pos_weight is None and class_weights is None and not label_smoothing
    logits, targets = read_labels(logits, targets)
    if is_usual and checking.can_be_quick(logits, reduction, normalizer) and logits.numel():
        value = checking.if_finite(F.binary_cross_entropy_with_logits(logits, targets))
        if value is not None:  # else a logit is infinite
            return value
    pos_weights = None
    if pos_weight is not None:
        pos_weights = torch.as_tensor(pos_weight, dtype=logits.dtype, device=logits.device)
        if pos_weights.ndim:
            pos_weights = label_numbers(pos_weights, "pos_weight", logits, class_axis)
    weights = label_numbers(class_weights, "class_weights", logits, class_axis)
    if label_smoothing:
        # A label that is ruled out by an infinite logit stays so: a share of it would cost without limit.
        smoothed = targets * (1 - label_smoothing) + label_smoothing / 2
        targets = torch.where(logits.isinf(), targets, smoothed)
    logits = finite_logits(logits)
    torch_loss = functools.partial(F.binary_cross_entropy_with_logits, logits, targets, weights, pos_weight=pos_weights)
    return reduced_by_torch(lambda how: torch_loss(reduction=how), logits, reduction, normalizer)


@register_loss(
    "bce_with_logits",
    [BINARY, SET, IMAGE],
    schema=BceWithLogitsLossConfig,
    aliases=["binary_cross_entropy_with_logits"],
)
class BceWithLogitsLoss(AdditiveLoss, LabelAxisMixin, BceWithLogitsKind):
    r"""Asks of each label on its own whether it applies; the usual first choice for labels that are yes or no.

    With $p = \sigma(z)$, $w$ the class weights and $v$ the `pos_weight`:
    $L = -w_c (v_c\,y \log p + (1 - y) \log(1 - p))$, where `label_smoothing` $\varepsilon$ makes labels
    $(1 - \varepsilon) y + \varepsilon / 2$. Infinite logits that are right cost 0, so that $-\infty$ can rule labels
    out.

    Shapes: logits and targets `(batch, ...)`, alike, with the class axis last, for images `(batch, classes, height,
    width)`; a scalar, or the same shape unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: `torch.nn.BCEWithLogitsLoss`, whose values it has.

    >>> BceWithLogitsLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]))
    tensor(1.4100)
    """

    reductions = WITH_BATCHMEAN
    pos_weight: float | Tensor | None
    class_weights: Tensor | None

    def __init__(
        self,
        *,
        pos_weight: float | Sequence[float] | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        if pos_weight is None or isinstance(pos_weight, (int, float)):
            self.pos_weight = pos_weight
        else:
            self.set_constant("pos_weight", pos_weight)
        self.set_constant("class_weights", class_weights)
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        # As the function does, where there is nothing to read and before all its settings are gathered.
        is_usual = self._buffers["class_weights"] is None and self.pos_weight is None and not self.label_smoothing
        is_quick = is_usual and checking.can_be_quick(logits, self.reduction, normalizer)
        if is_quick and are_usual(logits, targets):
            value = checking.if_finite(F.binary_cross_entropy_with_logits(logits, targets))
            if value is not None:
                return value
        return bce_with_logits_loss(
            logits, targets, **self.settings(), class_axis=self.class_axis, normalizer=normalizer
        )


def bce_loss(
    probabilities: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `BceLoss`."""
    is_quick = class_weights is None and checking.can_be_quick(probabilities, reduction, normalizer)
    if is_quick and are_usual(probabilities, targets):
        # torch looks at the probabilities itself; of those that are wrong, more can be said.
        with contextlib.suppress(RuntimeError):
            return F.binary_cross_entropy(probabilities, targets)
    probabilities, targets = read_probabilities(probabilities, targets)
    weights = label_numbers(class_weights, "class_weights", probabilities, class_axis, "probabilities")
    return cross_entropy_of_probabilities(probabilities, targets, weights, reduction, normalizer)


@register_loss("bce", [BINARY, SET, IMAGE], schema=BceLossConfig, aliases=["binary_cross_entropy"])
class BceLoss(AdditiveLoss, LabelAxisMixin, BceKind):
    r"""Binary cross-entropy for models that give probabilities; where there are logits, take bce_with_logits.

    $L = -w_c (y \log p + (1 - y) \log(1 - p))$, with each logarithm -100 at least. A sigmoid rounds to 0 or 1 where
    the model is very wrong, and then passes no gradient back; with logits it does.

    Shapes: probabilities and targets `(batch, ...)`, alike, with the class axis last, for images `(batch, classes,
    height, width)`; a scalar, or the same shape unreduced.
    Dtypes: probabilities any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: `torch.nn.BCELoss`, whose values it has; MMF's `bce` is its `batchmean`.

    >>> BceLoss()(torch.tensor([0.5, 0.9]), torch.tensor([1.0, 0.0]))
    tensor(1.4979)
    """

    reductions = WITH_BATCHMEAN
    class_weights: Tensor | None

    def __init__(self, *, class_weights: Sequence[float] | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.set_constant("class_weights", class_weights)

    @classmethod
    def get_loss_inputs(cls) -> str:
        return PROBABILITIES

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Probabilities away from 0 and 1, and soft labels."""
        shape = {SET: (6, sizes.classes), IMAGE: (6, sizes.classes, 4, 4)}.get(feature_type, (6,))
        probabilities = torch.rand(shape, generator=generator) * 0.8 + 0.1
        return (probabilities,), (torch.rand(shape, generator=generator),)

    def forward(self, probabilities: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return bce_loss(probabilities, targets, **self.settings(), class_axis=self.class_axis, normalizer=normalizer)
