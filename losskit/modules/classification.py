"""Losses for one class out of several."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import CATEGORY, CATEGORY_DISTRIBUTION, IMAGE, SEQUENCE, TEXT, VECTOR
from losskit.modules import checking, fused, sharing
from losskit.modules.class_ids import ClassIdsLoss, counts_of_ids
from losskit.modules.fused import Kernel, Workspace
from losskit.modules.fused_softmax import LONG_ROW, kernel_of_ids, kernel_of_labels
from losskit.modules.reduction import masked, reduce, reduce_sum
from losskit.modules.shapes import FULL, Classes, along, class_constant, read_classes
from losskit.modules.torch_kinds import CrossEntropyKind
from losskit.registry import register_loss
from losskit.schema.classification import SoftmaxCrossEntropyLossConfig

# What stands for an item that does not count, where every number that a config could ignore may be a wrong id.
NEVER_A_CLASS = -(2**31) - 1


def softmax_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    robust_lambda: float = 0.0,
    confidence_penalty: float = 0.0,
    class_similarities: Tensor | None = None,
    class_similarities_temperature: float = 0.0,
    class_axis: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `SoftmaxCrossEntropyLoss`."""
    has_extras = robust_lambda or confidence_penalty or class_similarities_temperature
    if not has_extras and checking.can_be_quick(logits, reduction, normalizer):
        found = _quick_cross_entropy(logits, targets, class_weights, ignore_index, label_smoothing, class_axis)
        if found is not None:
            return found
    given = read_classes(logits, targets, axis=class_axis, ignore_index=ignore_index, upcast=False)
    weights = class_constant(class_weights, "class_weights", logits, given.axis)
    item_weights = weights_of_items(given, weights)
    count = given.num_items() if item_weights is None else item_weights.sum()
    label_distributions = None
    if class_similarities is not None and class_similarities_temperature > 0:
        label_distributions = (torch.as_tensor(class_similarities) / class_similarities_temperature).softmax(-1)
    extras = label_smoothing or robust_lambda or confidence_penalty or label_distributions is not None

    def plain(logits: Tensor) -> Tensor:
        full = given.of(logits)
        if given.are_ids and not extras and reduction in ("mean", "sum"):
            if sharing.is_sharing():
                log_probabilities = sharing.log_softmax(full.logits, given.axis)
                total = summed_by_torch(F.nll_loss, full._replace(logits=log_probabilities), weights)
            else:
                total = summed_by_torch(F.cross_entropy, full, weights)
            return reduce_sum(total, reduction, count, normalizer)
        log_probabilities = sharing.log_softmax(full.logits, given.axis)
        if given.are_ids and label_distributions is None:
            values = costs_of_ids(log_probabilities, full, weights, label_smoothing)
        else:
            values = costs_of_distributions(log_probabilities, full, weights, label_smoothing, label_distributions)
        if robust_lambda or confidence_penalty:
            num_classes = logits.shape[given.axis]
            extra: Tensor | float = robust_lambda / num_classes
            if confidence_penalty:
                certainty = 1 - _entropy(log_probabilities, given.axis) / max(math.log(num_classes), 1e-30)
                extra = extra + confidence_penalty * certainty
            values = (1 - robust_lambda) * values + (extra if item_weights is None else extra * item_weights)
        return reduce(masked(values, given.valid), reduction, count=count, normalizer=normalizer)

    if has_extras or (given.are_ids and not _is_worth_a_kernel(logits, given.axis, label_smoothing)):
        return plain(logits)
    if given.are_ids:
        kernel = cross_entropy_of_ids(given, weights, label_smoothing)
    else:
        kernel = kernel_of_labels(given.targets, given.axis, smoothing=label_smoothing, weights=weights)
    return fused.reduced(
        kernel, plain, [logits], reduction, count=count, normalizer=normalizer, constants=[targets, weights]
    )


def _is_worth_a_kernel(logits: Tensor, axis: int, label_smoothing: float) -> bool:
    """torch's own cross-entropy is as fast in a cache, but for smoothed labels, and few classes that lie last."""
    if not fused.can_fuse(logits):
        return False
    has_short_rows = logits.ndim > 1 and logits.stride()[axis] == 1 and logits.shape[axis] < LONG_ROW
    return bool(label_smoothing) or has_short_rows or fused.can_fuse(logits, times_least_size=16)


def cross_entropy_of_ids(
    given: Classes, weights: Tensor | None, label_smoothing: float, *, in_place: bool = False
) -> Kernel:
    """The kernel of the sum of `costs_of_ids`, whose gradient may take the place of the logits."""

    def costs(log_p: Tensor, ids: Tensor, room: Workspace) -> tuple[Tensor, Tensor]:
        slopes = log_p.new_full((), label_smoothing - 1).expand_as(log_p)
        if weights is not None:
            slopes = slopes * weights[ids]
            log_p.masked_fill_(slopes == 0, 0)  # as in the plain form, a label of weight 0 that cannot be costs nothing
        return log_p.mul_(slopes), slopes

    spread = label_smoothing / max(given.logits.shape[given.axis], 1)
    return kernel_of_ids(
        given.targets, given.valid, given.axis, costs, spread=spread, weights=weights, in_place=in_place
    )


@register_loss(
    "softmax_cross_entropy",
    [CATEGORY, CATEGORY_DISTRIBUTION, VECTOR, IMAGE, SEQUENCE, TEXT],
    schema=SoftmaxCrossEntropyLossConfig,
    aliases=["cross_entropy"],
)
class SoftmaxCrossEntropyLoss(ClassIdsLoss, CrossEntropyKind):
    r"""The negative logarithm of the probability that the model gives to the right class; the usual first choice.

    With $p = \mathrm{softmax}(z)$ and labels $y$: $L = -\sum_c w_c\,y_c \log p_c$, where $y$ is the class of the
    item, or the softmax of that class's row of `class_similarities` over their temperature, smoothed by
    `label_smoothing` $\varepsilon$ to $(1 - \varepsilon) y + \varepsilon / C$. The mean divides by the weights of the
    labels where these are ids, and by the number of items where they are probabilities, as torch does.
    `robust_lambda` $\lambda$ makes it $(1 - \lambda) L + \lambda / C$; `confidence_penalty` $a$ adds
    $a (1 - H(p) / \log C)$.

    Shapes: logits `(batch, classes, ...)`, for sequences and text `(batch, ..., classes)`; targets `(batch, ...)` ids
    or, shaped like the logits, probabilities; a scalar, or `(batch, ...)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: `torch.nn.CrossEntropyLoss`; robust_lambda and what follows it are Ludwig's, the penalty from Pereyra et
    al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", 2017.

    >>> SoftmaxCrossEntropyLoss()(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
    tensor(0.2395)
    """

    function = staticmethod(softmax_cross_entropy_loss)

    class_weights: Tensor | None
    class_similarities: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        robust_lambda: float = 0.0,
        confidence_penalty: float = 0.0,
        class_similarities: Sequence[Sequence[float]] | None = None,
        class_similarities_temperature: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(ignore_index=ignore_index, reduction=reduction)
        self.set_constant("class_weights", class_weights)
        self.label_smoothing = label_smoothing
        self.robust_lambda = robust_lambda
        self.confidence_penalty = confidence_penalty
        self.set_constant("class_similarities", class_similarities)
        self.class_similarities_temperature = class_similarities_temperature

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        # As the function does, before all its settings are gathered.
        has_extras = self.robust_lambda or self.confidence_penalty or self.class_similarities_temperature
        may_be_odd = has_extras or self.is_for_images
        if not may_be_odd and checking.can_be_quick(logits, self.reduction, normalizer):
            weights, ignore_index = self._buffers["class_weights"], self.ignore_index
            found = _quick_cross_entropy(logits, targets, weights, ignore_index, self.label_smoothing, self.class_axis)
            if found is not None:
                return found
        return super().forward(logits, targets, normalizer=normalizer)

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1, or with class weights that of its label, for each item that is not ignored."""
        return counts_of_ids(targets[0], self.ignore_index, self.class_axis, self.class_weights)


def _quick_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    ignore_index: int | None,
    label_smoothing: float,
    class_axis: int | None,
) -> Tensor | None:
    """torch's mean, of a log-softmax that other losses may share; None where anything is unusual, or worth a kernel."""
    is_large = logits.numel() >= fused.LEAST_SIZE
    if is_large and _is_worth_a_kernel(logits, -1 if class_axis == -1 else 1, label_smoothing):
        return None
    if not sharing.is_sharing():
        torch_loss: Callable[..., Tensor] = F.cross_entropy
        if label_smoothing:
            torch_loss = functools.partial(F.cross_entropy, label_smoothing=label_smoothing)
        return quickly(torch_loss, logits, targets, class_weights, ignore_index, class_axis)
    if label_smoothing or logits.ndim < 2 or logits.dtype not in FULL:
        return None
    log_probabilities = sharing.log_softmax(logits, -1 if class_axis == -1 else 1)
    return quickly(F.nll_loss, log_probabilities, targets, class_weights, ignore_index, class_axis)


def quickly(
    torch_loss: Callable[..., Tensor],
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    ignore_index: int | None,
    class_axis: int | None,
) -> Tensor | None:
    """The mean of one of torch's losses, which looks at the class ids itself; None where anything is unusual."""
    if not isinstance(targets, Tensor) or targets.dtype is not torch.long or not targets.is_cpu:
        return None
    if logits.dtype not in FULL or logits.ndim < 2:
        return None
    if class_axis == -1 and logits.ndim > 2:
        if logits.shape[:-1] != targets.shape:
            return None
        logits, targets = logits.flatten(0, -2), targets.flatten()
    shape = logits.shape
    if (shape[:1] if len(shape) == 2 else shape[:1] + shape[2:]) != targets.shape:
        return None
    weights = None
    if class_weights is not None:
        class_weights = torch.as_tensor(class_weights, device=logits.device)
        if class_weights.shape != shape[1:2]:
            return None
        weights = class_weights.to(logits.dtype)
    ignored = NEVER_A_CLASS if ignore_index is None else ignore_index
    try:
        # It is not finite where nothing counts, or a logit is infinite.
        return checking.if_finite(torch_loss(logits, targets, weights, ignore_index=ignored))
    except IndexError:
        return None  # an id that is out of range, of which more can be said


def weights_of_items(given: Classes, weights: Tensor | None) -> Tensor | None:
    """The class weight of each id, 0 where it is ignored; None where all are 1."""
    if weights is None or not given.are_ids:
        return None
    found = weights[given.targets]
    return found if given.valid is None else found * given.valid


def summed_by_torch(torch_loss: Callable[..., Tensor], given: Classes, weights: Tensor | None) -> Tensor:
    """The sum of one of torch's losses over all items that count, which keeps no value per item."""
    logits, ids = given.logits, given.targets
    if given.valid is not None:
        ids = ids.masked_fill(~given.valid, -100)
    if weights is not None:
        # A label of weight 0 that cannot be, with a logit of -inf, costs nothing, and not 0 * inf.
        ids = ids.masked_fill(weights[given.targets] == 0, -100)
    if logits.ndim > 2 and given.axis == logits.ndim - 1:
        logits, ids = logits.flatten(0, -2), ids.flatten()
    return torch_loss(logits, ids, weight=weights, reduction="sum")


def costs_of_ids(
    log_probabilities: Tensor,
    given: Classes,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    *,
    to_others: bool = False,
) -> Tensor:
    """The cost of each item's label, of which a share is spread over all classes, or over all others."""
    axis = given.axis
    values = -log_probabilities.gather(axis, given.targets.unsqueeze(axis)).squeeze(axis)
    if weights is not None:
        own = weights[given.targets]
        values = torch.where(own == 0, torch.zeros_like(values), values * own)
    if label_smoothing:
        # Logits of -inf mark classes that cannot be: the share that is spread goes to the others.
        possible = log_probabilities > -math.inf
        spread = torch.where(possible, -log_probabilities, torch.zeros_like(log_probabilities))
        if weights is not None:
            spread = spread * along(weights, axis, spread.ndim)
        num_possible = possible.sum(axis, dtype=values.dtype)
        share: Tensor | float = label_smoothing
        if to_others:
            # What is spread over all gives the label a part back.
            share = share * num_possible / (num_possible - 1).clamp_min(1)
        values = (1 - share) * values + share * (spread.sum(axis) / num_possible)
    return values


def costs_of_distributions(
    log_probabilities: Tensor,
    given: Classes,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    label_distributions: Tensor | None = None,
) -> Tensor:
    """The cost of each item's probabilities of classes, or of the distributions that replace class ids."""
    labels = given.targets
    if label_distributions is not None and not given.are_ids:
        raise ValueError("class_similarities replace class ids, but the targets are probabilities")
    if given.are_ids:
        assert label_distributions is not None
        if label_distributions.shape[0] != given.logits.shape[given.axis]:
            rows, found = label_distributions.shape[0], given.logits.shape[given.axis]
            raise ValueError(f"class_similarities has {rows} rows, but the logits have {found} classes")
        labels = label_distributions.to(log_probabilities.dtype)[labels].movedim(-1, given.axis)
        # Classes that cannot be get no share of the label.
        labels = labels.masked_fill(log_probabilities == -math.inf, 0)
        labels = labels / labels.sum(given.axis, keepdim=True)
    if label_smoothing:
        possible = (log_probabilities > -math.inf).to(labels.dtype)
        spread = label_smoothing * possible / possible.sum(given.axis, keepdim=True)
        labels = (1 - label_smoothing) * labels + spread
    # A class of probability 0 that also cannot be, with a logit of -inf, costs nothing.
    terms = torch.where(labels == 0, torch.zeros_like(labels), -labels * log_probabilities)
    if weights is not None:
        terms = terms * along(weights, given.axis, terms.ndim)
    return terms.sum(given.axis)


def _entropy(log_probabilities: Tensor, axis: int) -> Tensor:
    # 0 * -inf would be NaN for classes that cannot be.
    return -(log_probabilities.exp() * log_probabilities.clamp_min(-1e30)).sum(axis)
