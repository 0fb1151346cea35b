"""Losses of models that return the logarithms of probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, LOG_PROBABILITIES, SEQUENCE, SET, TEXT
from losskit.modules import checking
from losskit.modules.base import ScoresLoss
from losskit.modules.class_ids import ClassIdsLoss, counts_of_ids
from losskit.modules.classification import (
    NEVER_A_CLASS,
    costs_of_distributions,
    costs_of_ids,
    quickly,
    summed_by_torch,
    weights_of_items,
)
from losskit.modules.reduction import masked, reduce, reduce_sum
from losskit.modules.shapes import (
    class_constant,
    floating,
    read_classes,
    require_alike,
    require_rows_of_classes,
)
from losskit.modules.torch_kinds import NllKind
from losskit.registry import register_loss
from losskit.schema.log_probabilities import NllLossConfig, NllLossLossConfig


def nll_loss(
    log_probabilities: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int | None = -100,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `NllLoss`."""
    if checking.can_be_quick(log_probabilities, reduction, normalizer):
        found = quickly(F.nll_loss, log_probabilities, targets, class_weights, ignore_index, class_axis)
        if found is not None:
            return found
    given = read_classes(
        log_probabilities, targets, axis=class_axis, ignore_index=ignore_index, name="log_probabilities"
    )
    checking.require_log_distribution(given.logits, "log_probabilities", given.axis)
    weights = class_constant(class_weights, "class_weights", given.logits, given.axis, "log_probabilities")
    item_weights = weights_of_items(given, weights)
    count = given.num_items() if item_weights is None else item_weights.sum()
    if given.are_ids and reduction in ("mean", "sum"):
        return reduce_sum(summed_by_torch(F.nll_loss, given, weights), reduction, count, normalizer)
    costs = costs_of_ids if given.are_ids else costs_of_distributions
    values = masked(costs(given.logits, given, weights), given.valid)
    return reduce(values, reduction, count=count, normalizer=normalizer)


@register_loss("nll", [CATEGORY, SEQUENCE, TEXT, IMAGE], schema=NllLossConfig, aliases=["nll_2d", "nll_loss2d"])
class NllLoss(ClassIdsLoss, NllKind):
    r"""Cross-entropy for models that end in a log-softmax: the negative log-probability of the right class.

    With log-probabilities $\ell$ and labels $y$: $L = -\sum_c w_c\,y_c\,\ell_c$. The mean divides by the weights of the
    labels where these are ids, and by the number of items where they are probabilities. Logits are not refused outside
    `losskit.debug()`, and have no meaning here: they go to `softmax_cross_entropy`.

    Shapes: log-probabilities `(batch, classes, ...)`, for sequences and text `(batch, ..., classes)`; targets
    `(batch, ...)` ids or, shaped like the log-probabilities, probabilities; a scalar, or `(batch, ...)` unreduced.
    Dtypes: log-probabilities any floating-point, computed in float32 at least; ids any integer.
    Source: `torch.nn.NLLLoss`, whose values it has; `NLLLoss2d` is the same for images.

    >>> NllLoss()(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0]))
    tensor(0.6931)
    """

    function = staticmethod(nll_loss)

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self.set_constant("class_weights", class_weights)

    @classmethod
    def get_loss_inputs(cls) -> str:
        return LOG_PROBABILITIES

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1, or with class weights that of its label, for each item that is not ignored."""
        return counts_of_ids(targets[0], self.ignore_index, self.class_axis, self.class_weights)


def nll_loss_loss(
    log_probabilities: Tensor,
    targets: Tensor,
    *,
    takes_ids: bool = True,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `NllLossLoss`; without `takes_ids`, targets must be scores."""
    log_probabilities = floating(log_probabilities, "log_probabilities", may_mask=True)
    require_rows_of_classes(log_probabilities, targets, "log_probabilities")
    ids = targets
    if not takes_ids or targets.ndim == 2:
        require_alike(log_probabilities, targets, ("log_probabilities", "targets"))
        ids = _highest(targets)
    value = nll_loss(
        log_probabilities,
        ids,
        ignore_index=NEVER_A_CLASS,
        class_axis=1,
        reduction=reduction,
        normalizer=normalizer,
    )
    return value * log_probabilities.shape[1]


@register_loss("nll_loss", [CATEGORY, CATEGORY_DISTRIBUTION, SET], schema=NllLossLossConfig)
class NllLossLoss(ScoresLoss):
    r"""The negative log-probability of each item's highest-scored class, times the number of classes, as MMF has it.

    With log-probabilities $\ell$, scores $y$ and $C$ classes: $L = -C\,\ell_k$ with $k = \arg\max_c y_c$, the first
    of equal ones. Items without any score do not count. `nll` is the same without the factor, and uses all scores.

    Shapes: log-probabilities `(batch, classes)`; targets alike, one-hot or scores of 0 or more, or `(batch,)` ids; a
    scalar, or `(batch,)` unreduced. Dtypes: log-probabilities any floating-point, computed in float32 at least; targets
    bool, integer or floating-point, ids any integer.
    Source: MMF's `nll_loss`.

    >>> NllLossLoss()(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[1, 0, 0]]))
    tensor(2.0794)
    """

    @classmethod
    def get_loss_inputs(cls) -> str:
        return LOG_PROBABILITIES

    def forward(
        self, log_probabilities: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None
    ) -> Tensor:
        return nll_loss_loss(
            log_probabilities, targets, **self.settings(), takes_ids=self.takes_ids, normalizer=normalizer
        )

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each item with a label."""
        ids = _highest(targets[0]) if targets[0].ndim > 1 else targets[0]
        return counts_of_ids(ids, NEVER_A_CLASS, None)


def _highest(targets: Tensor) -> Tensor:
    """The class of the highest score; for items without a score, none."""
    targets = targets.byte() if targets.dtype == torch.bool else targets
    return targets.argmax(1).masked_fill(~(targets > 0).any(1), NEVER_A_CLASS)
