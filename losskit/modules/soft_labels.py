"""Cross-entropy of labels that name several classes, each with its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.constants import CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, SEQUENCE, SET, TEXT
from losskit.modules import checking, fused, sharing
from losskit.modules.base import ScoresLoss
from losskit.modules.class_ids import ClassIdsLoss, counts_of_ids
from losskit.modules.classification import (
    costs_of_distributions,
    costs_of_ids,
    cross_entropy_of_ids,
    softmax_cross_entropy_loss,
)
from losskit.modules.fused_softmax import kernel_of_labels
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import (
    Classes,
    floating,
    read_classes,
    require_alike,
    require_floating,
    require_rows_of_classes,
)
from losskit.modules.torch_kinds import CrossEntropyKind
from losskit.registry import register_loss
from losskit.schema.soft_labels import LabelSmoothingCrossEntropyLossConfig, SoftLabelCrossEntropyLossConfig


def soft_label_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    normalize_targets: bool = True,
    ignore_index: int | None = -100,
    takes_ids: bool = True,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `SoftLabelCrossEntropyLoss`; without `takes_ids`, targets must be scores."""
    require_floating(logits, "logits", may_mask=True)
    require_rows_of_classes(logits, targets)
    if takes_ids and targets.ndim == 1:
        return softmax_cross_entropy_loss(
            logits, targets, ignore_index=ignore_index, class_axis=1, reduction=reduction, normalizer=normalizer
        )
    require_alike(logits, targets, ("logits", "targets"))
    labels = _scores(targets.to(torch.promote_types(logits.dtype, torch.float32)), ignore_index)
    checking.require_labels(labels, targets.dtype, torch.inf)
    totals = labels.sum(1, keepdim=True)
    count = (totals != 0).sum()
    divisors = torch.where(totals == 0, torch.ones_like(totals), totals) if normalize_targets else None

    def plain(logits: Tensor) -> Tensor:
        shares = labels if divisors is None else labels / divisors
        full = floating(logits, "logits", may_mask=True)
        values = costs_of_distributions(sharing.log_softmax(full, 1), Classes(full, shares, 1, False, None))
        return reduce(values, reduction, count=count, normalizer=normalizer)

    kernel = kernel_of_labels(labels, 1, totals=None if divisors is None else divisors.squeeze(1))
    return fused.reduced(kernel, plain, [logits], reduction, count=count, normalizer=normalizer, constants=[labels])


@register_loss(
    "soft_label_cross_entropy",
    [CATEGORY_DISTRIBUTION, CATEGORY, SET],
    schema=SoftLabelCrossEntropyLossConfig,
    aliases=["soft_target_cross_entropy"],
)
class SoftLabelCrossEntropyLoss(ScoresLoss, CrossEntropyKind):
    r"""Cross-entropy of labels with shares in several classes, such as the votes of annotators for each answer.

    With $p = \mathrm{softmax}(z)$ and scores $y \ge 0$: $L = -\sum_c y_c \log p_c$, divided by $\sum_c y_c$ with
    `normalize_targets`. Items without any score do not count, and the mean divides by the number of those that do.

    Shapes: logits `(batch, classes)`; targets alike, or `(batch,)` ids; a scalar, or `(batch,)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or floating-point, ids any
    integer. Source: MMF's `soft_label_cross_entropy`, without the 1e-7 that it adds to the sum of the scores.

    >>> SoftLabelCrossEntropyLoss()(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]]))
    tensor(0.7395)
    """

    def __init__(
        self, *, normalize_targets: bool = True, ignore_index: int | None = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.normalize_targets = normalize_targets
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return soft_label_cross_entropy_loss(
            logits, targets, **self.settings(), takes_ids=self.takes_ids, normalizer=normalizer
        )

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each item that has a label."""
        if targets[0].ndim == 1:
            return counts_of_ids(targets[0], self.ignore_index, None)
        # In the dtype of the sums of `forward`, where bool and small integers hold no sums.
        labels = targets[0] if targets[0].dtype == torch.float64 else targets[0].float()
        return _scores(labels, self.ignore_index).sum(1) != 0


def _scores(targets: Tensor, ignore_index: int | None) -> Tensor:
    """The scores, 0 where they are marked to be ignored; a mark of 0 or more would be a score."""
    if ignore_index is None or ignore_index >= 0:
        return targets
    if checking.can_peek(targets) and targets.numel() and targets.amin() > ignore_index:
        return targets  # as it is most often, and without a copy
    return targets.masked_fill(targets == ignore_index, 0)


def label_smoothing_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.1,
    spread: str = "others",
    ignore_index: int | None = -100,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `LabelSmoothingCrossEntropyLoss`."""
    checking.check_option("spread", spread, ("others", "uniform"))
    given = read_classes(logits, targets, axis=class_axis, ignore_index=ignore_index, upcast=False)
    if not given.are_ids:
        raise TypeError(
            "targets are probabilities, but must be class ids; for scores of several classes there are "
            "soft_label_cross_entropy and softmax_cross_entropy"
        )
    if not label_smoothing:
        return softmax_cross_entropy_loss(
            logits,
            targets,
            ignore_index=ignore_index,
            class_axis=class_axis,
            reduction=reduction,
            normalizer=normalizer,
        )
    to_others = spread == "others"
    count = given.num_items()

    def plain(logits: Tensor) -> Tensor:
        full = given.of(logits)
        log_probabilities = sharing.log_softmax(full.logits, full.axis)
        values = costs_of_ids(log_probabilities, full, None, label_smoothing, to_others=to_others)
        return reduce(masked(values, given.valid), reduction, count=count, normalizer=normalizer)

    num_classes = logits.shape[given.axis]
    share = label_smoothing * num_classes / max(num_classes - 1, 1) if to_others else label_smoothing
    kernel = cross_entropy_of_ids(given, None, share)
    return fused.reduced(kernel, plain, [logits], reduction, count=count, normalizer=normalizer, constants=[targets])


@register_loss(
    "label_smoothing_cross_entropy",
    [CATEGORY, SEQUENCE, TEXT, IMAGE],
    schema=LabelSmoothingCrossEntropyLossConfig,
)
class LabelSmoothingCrossEntropyLoss(ClassIdsLoss, CrossEntropyKind):
    r"""Cross-entropy where each label gives a share to the other classes, so that certainty stops paying off.

    With $p = \mathrm{softmax}(z)$, $C$ classes and `label_smoothing` $\varepsilon$, the label of class $k$ is
    $y_k = 1 - \varepsilon$ and $y_c = \varepsilon / (C - 1)$ elsewhere, or for `spread: uniform` the mixture
    $(1 - \varepsilon)\,[c = k] + \varepsilon / C$ of torch: $L = -\sum_c y_c \log p_c$. Classes with a logit of
    $-\infty$ get no share.

    Shapes: logits `(batch, classes, ...)`, for sequences and text `(batch, ..., classes)`; targets `(batch, ...)` ids;
    a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016; spread over the others
    as in MMF.

    >>> LabelSmoothingCrossEntropyLoss()(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(0.4395)
    """

    function = staticmethod(label_smoothing_cross_entropy_loss)

    def __init__(
        self,
        *,
        label_smoothing: float = 0.1,
        spread: str = "others",
        ignore_index: int | None = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self.label_smoothing = label_smoothing
        self.spread = spread
