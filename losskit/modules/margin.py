"""Losses that ask for scores to be apart by a margin, and for nothing beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import BINARY, CATEGORY, NUMBER, SET, VECTOR
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss, RowsLoss
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.reduction import reduce
from losskit.modules.shapes import (
    alike,
    class_constant,
    floating,
    read_classes,
    require_alike,
    require_last_axis,
    signs,
)
from losskit.registry import register_loss
from losskit.schema.margin import (
    HingeEmbeddingLossConfig,
    MarginRankingLossConfig,
    MultiLabelMarginLossConfig,
    MultiLabelSoftMarginLossConfig,
    MultiMarginLossConfig,
    SoftMarginLossConfig,
)

_TARGET_FORMS = ("auto", "multi_hot", "ids")


def soft_margin_loss(
    logits: Tensor, targets: Tensor, *, reduction: str = "mean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `SoftMarginLoss`."""
    logits = floating(logits, "logits")
    require_alike(logits, targets, ("logits", "targets"))
    labels = signs(targets, logits.dtype)
    if checking.can_be_quick(logits, reduction, normalizer):
        value = checking.if_finite(F.soft_margin_loss(logits, labels))
        if value is not None:  # else an exponential has overflowed, or there is nothing
            return value
    return reduce(-F.logsigmoid(labels * logits), reduction, normalizer=normalizer)


@register_loss("soft_margin", [BINARY, SET], schema=SoftMarginLossConfig)
class SoftMarginLoss(AdditiveLoss):
    r"""Logistic loss of yes-or-no labels that are written -1 and 1: cross-entropy without further settings.

    $L = \log(1 + e^{-y z})$ with labels $y$ of -1 and 1; 0 stands for -1.

    Shapes: logits and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool or any numbers of -1, 0 and 1.
    Source: `torch.nn.SoftMarginLoss`, whose values it has; that one does not map 0 to -1.

    >>> SoftMarginLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1, -1]))
    tensor(1.4100)
    """

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return soft_margin_loss(logits, targets, **self.settings(), normalizer=normalizer)


def hinge_embedding_loss(
    distances: Tensor,
    targets: Tensor,
    *,
    margin: float = 1.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `HingeEmbeddingLoss`."""
    distances = floating(distances, "distances")
    require_alike(distances, targets, ("distances", "targets"))
    are_like = signs(targets, distances.dtype) > 0
    values = torch.where(are_like, distances, (margin - distances).clamp_min(0))
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("hinge_embedding", [BINARY, NUMBER, VECTOR], schema=HingeEmbeddingLossConfig)
class HingeEmbeddingLoss(AdditiveLoss):
    r"""Draws like pairs together and pushes unlike ones apart, up to a margin; takes distances, not embeddings.

    With the distance $d$ of a pair: $L = d$ where it is alike ($y = 1$), else $\max(0, \mathrm{margin} - d)$.

    Shapes: distances and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: distances any floating-point, computed in float32 at least; targets bool or any numbers of -1, 0 and 1,
    where 0 stands for -1.
    Source: `torch.nn.HingeEmbeddingLoss`, whose values it has; that one does not map 0 to -1.

    >>> HingeEmbeddingLoss()(torch.tensor([0.5, 0.2, 3.0]), torch.tensor([1, -1, -1]))
    tensor(0.4333)
    """

    def __init__(self, *, margin: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = margin

    def forward(self, distances: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return hinge_embedding_loss(distances, targets, **self.settings(), normalizer=normalizer)

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Distances, and whether pairs are alike, for numbers too."""
        shape = (6, sizes.dimensions) if feature_type == VECTOR else (6,)
        labels = 2 * torch.randint(2, shape, generator=generator) - 1
        return (torch.randn(shape, generator=generator).abs(),), (labels,)


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    targets: Tensor,
    *,
    margin: float = 0.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `MarginRankingLoss`."""
    input1, input2 = floating(input1, "input1"), floating(input2, "input2")
    require_alike(input1, input2, ("input1", "input2"))
    require_alike(input1, targets, ("input1", "targets"))
    dtype = torch.promote_types(input1.dtype, input2.dtype)
    values = (margin - signs(targets, dtype) * (input1 - input2)).clamp_min(0)
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("margin_ranking", [NUMBER], schema=MarginRankingLossConfig)
class MarginRankingLoss(AdditiveLoss):
    r"""Asks that the right one of two scores be the higher one; for learning an order from comparisons.

    $L = \max(0, \mathrm{margin} - y (x_1 - x_2))$, where $y = 1$ says that $x_1$ should be higher, and -1 or 0 that
    $x_2$ should.

    Shapes: both inputs and targets `(batch, ...)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: inputs any floating-point, computed in float32 at least; targets bool or any numbers of -1, 0 and 1.
    Source: `torch.nn.MarginRankingLoss`, whose values it has; that one does not map 0 to -1.

    >>> MarginRankingLoss(margin=1.0)(torch.tensor([2.0, 0.0]), torch.tensor([1.5, 3.0]), torch.tensor([1, -1]))
    tensor(0.2500)
    """

    def __init__(self, *, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = margin

    @classmethod
    def get_loss_inputs(cls) -> tuple[str, ...]:
        return "input1", "input2"

    def forward(
        self, input1: Tensor, input2: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        return margin_ranking_loss(input1, input2, targets, **self.settings(), normalizer=normalizer)

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Pairs of scores, and which of them should be higher."""
        labels = 2 * torch.randint(2, (6,), generator=generator) - 1
        return (torch.randn(6, generator=generator), torch.randn(6, generator=generator)), (labels,)


def multi_margin_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    p: int = 1,
    margin: float = 1.0,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `MultiMarginLoss`."""
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
    given = read_classes(logits, targets, axis=1)
    if not given.are_ids:
        found = f"targets are {str(targets.dtype).removeprefix('torch.')} of the logits' shape {tuple(logits.shape)}"
        raise TypeError(f"{found}, but must be class ids; of probabilities or one-hot labels give targets.argmax(1)")
    logits, ids, axis = given.logits, given.targets.unsqueeze(given.axis), given.axis
    weights = class_constant(class_weights, "class_weights", logits, axis)
    # The slope at the margin itself is 0, as in torch.
    shortfalls = F.relu(margin - logits.gather(axis, ids) + logits).scatter(axis, ids, 0.0)
    if p == 2:
        shortfalls = shortfalls.square()
    values = shortfalls.sum(axis) / logits.shape[axis]
    if weights is not None:
        values = values * weights[given.targets]
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("multi_margin", [CATEGORY], schema=MultiMarginLossConfig)
class MultiMarginLoss(AdditiveLoss):
    r"""Asks that the right class be ahead of each other one by a margin; the hinge loss for several classes.

    With the right class $y$ of an item and $C$ classes:
    $L = \frac{w_y}{C} \sum_{c \neq y} \max(0, \mathrm{margin} - z_y + z_c)^p$.

    Shapes: logits `(batch, classes, ...)`; targets `(batch, ...)` ids; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", 2001;
    `torch.nn.MultiMarginLoss`, whose values it has.

    >>> MultiMarginLoss()(torch.tensor([[0.5, 0.0, -2.0]]), torch.tensor([0]))
    tensor(0.1667)
    """

    class_weights: Tensor | None

    takes_ids = takes_ids_alone = True

    def __init__(
        self,
        *,
        p: int = 1,
        margin: float = 1.0,
        class_weights: Sequence[float] | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.p = p
        self.margin = margin
        self.set_constant("class_weights", class_weights)

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return multi_margin_loss(logits, targets, **self.settings(), normalizer=normalizer)


def multi_label_margin_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    target_form: str = "auto",
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `MultiLabelMarginLoss`."""
    checking.check_option("target_form", target_form, _TARGET_FORMS)
    logits = floating(logits, "logits")
    require_alike(logits, targets, ("logits", "targets"))
    require_last_axis(logits)
    counts = _label_counts(targets, target_form)
    # Sorted, what a class falls short by is a sum over all labels before it. Prefix sums take up little memory, but
    # lose the digits of small values, hence float64.
    exact = logits if logits.device.type == "mps" else logits.double()
    are_labels = counts > 0
    # At the margin itself classes stand before labels, so that the slope there is 0, as in torch.
    order = are_labels.byte().argsort(dim=-1, stable=True)
    bounds, ranks = torch.where(are_labels, exact - 1, exact).gather(-1, order).sort(dim=-1, stable=True)
    counts = counts.gather(-1, order).gather(-1, ranks).to(bounds.dtype)
    shortfalls = bounds * counts.cumsum(-1) - (counts * bounds).cumsum(-1)
    values = torch.where(counts > 0, torch.zeros_like(shortfalls), shortfalls).sum(-1) / max(logits.shape[-1], 1)
    return reduce(values.to(logits.dtype), reduction, normalizer=normalizer)


@register_loss("multi_label_margin", [SET], schema=MultiLabelMarginLossConfig)
class MultiLabelMarginLoss(RowsLoss):
    r"""Asks that each label that applies be ahead of each that does not by 1; a hinge loss for sets of labels.

    With the labels $Y$ of a sample and $C$ classes:
    $L = \frac1C \sum_{j \in Y} \sum_{i \notin Y} \max(0, 1 - (z_j - z_i))$.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float64, since it takes differences of sums; targets bool or any
    numbers. Of targets with the ids 0 and 1 alone, such as those of 2 classes, say `target_form: ids`.
    Source: `torch.nn.MultiLabelMarginLoss`, whose values it has; that one takes ids only.

    >>> MultiLabelMarginLoss()(torch.tensor([[0.5, 0.0, 2.0]]), torch.tensor([[1, 0, 1]]))
    tensor(0.1667)
    """

    def __init__(self, *, target_form: str = "auto", reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.target_form = target_form

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return multi_label_margin_loss(logits, targets, **self.settings(), normalizer=normalizer)


def multi_label_soft_margin_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `MultiLabelSoftMarginLoss`."""
    logits, labels = alike(logits, targets, ("logits", "targets"))
    require_last_axis(logits)
    checking.require_labels(labels, targets.dtype)
    weights = class_constant(class_weights, "class_weights", logits, -1)
    # Both logarithms, for log(1 - p) as a difference has none of the digits of an easy negative.
    values = -(labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits))
    if weights is not None:
        values = values * weights
    return reduce(values.sum(-1) / max(logits.shape[-1], 1), reduction, normalizer=normalizer)


@register_loss("multi_label_soft_margin", [SET], schema=MultiLabelSoftMarginLossConfig)
class MultiLabelSoftMarginLoss(RowsLoss):
    r"""Asks for each label on its own whether it applies, as sigmoid cross-entropy; differs in its weights and sum.

    With $p = \sigma(z)$, $C$ classes and weights $w_c$: $L = -\frac1C \sum_c w_c (y_c \log p_c + (1 - y_c)
    \log(1 - p_c))$. The weights count for absent labels too, and a sum adds up samples, each a mean over classes.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: `torch.nn.MultiLabelSoftMarginLoss`, whose values it has.

    >>> MultiLabelSoftMarginLoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([[1, 0]]))
    tensor(1.4100)
    """

    class_weights: Tensor | None

    def __init__(self, *, class_weights: Sequence[float] | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.set_constant("class_weights", class_weights)

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return multi_label_soft_margin_loss(logits, targets, **self.settings(), normalizer=normalizer)


def _label_counts(targets: Tensor, target_form: str) -> Tensor:
    """How often each class is a label: for ids, as often as it stands before the first negative number."""
    num_classes = targets.shape[-1]
    given = targets.long()
    if targets.is_floating_point():
        message = "targets hold a value that is no whole number"
        checking.require_each(targets == given, targets, message, "; labels apply or not")
    outside = (given < 0) | (given > 1)
    if target_form == "multi_hot" or (target_form == "auto" and targets.dtype == torch.bool):
        cure = "; for ids use target_form: ids"
        checking.require_each(~outside, given, "targets hold a value other than 0 and 1", cure)
        return given
    if targets.dtype == torch.bool:
        raise TypeError("targets are bool, but target_form: ids asks for ids; use target_form: multi_hot")
    are_labels = (given < 0).cumsum(-1) == 0
    wrong = (are_labels & (given >= num_classes)) | (given < -1)
    if target_form == "auto":
        wrong = wrong & outside.any()
    message = f"targets hold an id other than -1 and the {num_classes} classes of the logits, 0 to {num_classes - 1}"
    checking.require_each(~wrong, given, message)
    # In a compiled program an id out of range would end the process before the assertion can speak.
    ids = torch.where(are_labels, given, torch.zeros_like(given)).clamp(0, max(num_classes - 1, 0))
    counts = torch.zeros_like(given).scatter_add(-1, ids, are_labels.long())
    return counts if target_form == "ids" else torch.where(outside.any(), counts, given)
