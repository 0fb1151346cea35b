"""Cross-entropy that looks at hard examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import BINARY, CATEGORY, IMAGE, SEQUENCE, SET, TEXT
from losskit.modules import checking, fused, sharing
from losskit.modules.base import AdditiveLoss, ClassAxisMixin
from losskit.modules.binary import finite_logits
from losskit.modules.class_ids import counts_of_ids
from losskit.modules.fused import Kernel, Workspace
from losskit.modules.fused_elements import (
    NOT_COUNTED,
    by_autograd,
    focal_labels,
    kernel_of_elements,
    kernel_of_one_hot,
)
from losskit.modules.fused_softmax import kernel_of_ids
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import Classes, alike, along, class_constant, read_classes, require_alike, require_tensor
from losskit.registry import register_loss
from losskit.schema.focal import DEFAULT_ALPHA, FocalLossConfig


def focal_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    alpha: float | Tensor | None = DEFAULT_ALPHA,
    gamma: float = 2.0,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    activation: str = "auto",
    average_classes: bool = False,
    normalize_by: str = "items",
    class_axis: int | None = None,
    takes_ids: bool = True,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `FocalLoss`; `alpha` is a tensor where it has one number per class.

    Without `takes_ids`, targets are labels that must be shaped like the logits.
    """
    for tensor, name in ((logits, "logits"), (targets, "targets")):
        require_tensor(tensor, name)
    if not takes_ids:
        require_alike(logits, targets, ("logits", "targets"))
    checking.check_option("activation", activation, ("auto", "sigmoid", "softmax"))
    if activation == "auto":
        activation = "sigmoid" if logits.shape == targets.shape else "softmax"
    if normalize_by == "positives" and logits.shape != targets.shape:
        raise ValueError("normalize_by is 'positives', but class ids have none; give labels shaped like the logits")

    def plain(logits: Tensor) -> Tensor:
        if activation == "sigmoid":
            values = _sigmoid_focal(logits, targets, alpha, gamma, ignore_index, label_smoothing, class_axis)
        else:
            values = _softmax_focal(logits, targets, alpha, gamma, ignore_index, label_smoothing, class_axis)
            if average_classes:
                values = values / max(logits.numel() // max(values.numel(), 1), 1)
        count: Tensor | int = values.numel()
        if values.shape == targets.shape and reduction == "mean" and normalizer is None:
            count = _counts(targets, ignore_index, normalize_by).sum()
            count = count if normalize_by == "items" else count.clamp_min(1)
        return reduce(values, reduction, count=count, normalizer=normalizer)

    if not fused.can_fuse(logits, targets):
        return plain(logits)
    kernel: Kernel | None
    count: Tensor | int = targets.numel()
    if activation == "sigmoid" and logits.shape == targets.shape:
        kernel, all_count = _sigmoid_kernel(logits, targets, alpha, gamma, ignore_index, label_smoothing)
        if not all_count or normalize_by == "positives":
            count = _counts(targets, ignore_index, normalize_by).sum()
            count = count if normalize_by == "items" else count.clamp_min(1)
    else:
        given = read_classes(logits, targets, axis=class_axis, ignore_index=ignore_index, upcast=False)
        kernel_of = _one_vs_rest_kernel if activation == "sigmoid" else _softmax_kernel
        kernel = None if label_smoothing else kernel_of(given, alpha, gamma, average_classes)
        count = given.num_items()
    if kernel is None:
        return plain(logits)
    constants = [targets, alpha if isinstance(alpha, Tensor) else None]
    return fused.reduced(kernel, plain, [logits], reduction, count=count, normalizer=normalizer, constants=constants)


@register_loss("focal", [BINARY, SET, CATEGORY, IMAGE, SEQUENCE, TEXT], schema=FocalLossConfig)
class FocalLoss(AdditiveLoss, ClassAxisMixin):
    r"""Cross-entropy that plays down examples which the model gets right already, for rare classes and small objects.

    With $p_t$ the probability of the label: $L = -\alpha_t (1 - p_t)^\gamma \log p_t$. For yes-or-no labels
    $p_t = p$ and $\alpha_t = \alpha$ where the label is 1, $1 - p$ and $1 - \alpha$ where it is 0, and in proportion
    between. For one class out of several, $p_t$ is the softmax probability of the label and $\alpha_t$ its entry of
    `alpha`, where that is a list; with `activation: sigmoid`, it is the mean over yes-or-no questions, one per class.
    `label_smoothing` $\varepsilon$ makes labels $(1 - \varepsilon) y + \varepsilon / C$, with two classes for yes-or-no
    labels, and the loss of soft labels is the sum over the classes in their proportion.

    Shapes: logits and targets `(batch, ...)`, alike (sigmoid); or logits `(batch, classes, ...)`, for sequences and
    text `(batch, ..., classes)`, and ids `(batch, ...)` (softmax); a scalar, or the targets' shape unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1]; ids any
    integer.
    Source: Lin et al., "Focal Loss for Dense Object Detection", 2017.

    >>> FocalLoss()(torch.tensor([0.0, 2.0]), torch.tensor([1, 0]))
    tensor(0.6404)
    """

    alpha: float | Tensor | None

    def __init__(
        self,
        *,
        alpha: float | Sequence[float] | None = DEFAULT_ALPHA,
        gamma: float = 2.0,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        activation: str = "auto",
        average_classes: bool = False,
        normalize_by: str = "items",
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        if alpha is None or isinstance(alpha, (int, float)):
            self.alpha = alpha
        else:
            self.set_constant("alpha", alpha)
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.activation = activation
        self.average_classes = average_classes
        self.normalize_by = normalize_by
        self.takes_ids = True

    def set_feature_type(self, feature_type: str) -> None:
        super().set_feature_type(feature_type)
        self.takes_ids = feature_type not in (BINARY, SET)
        if not self.takes_ids:
            self.class_axis = -1
        # Both kinds of target may have the logits' shape, so what the feature is decides; masks are of either kind.
        if self.activation == "auto" and feature_type != IMAGE:
            self.activation = "softmax" if self.takes_ids else "sigmoid"

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        may_be_sigmoid = self.activation != "softmax" and max(self._constants.get("alpha", [0])) > 1
        if may_be_sigmoid and (self.activation == "sigmoid" or logits.shape == targets.shape):
            raise ValueError("alpha has values above 1, but `1 - alpha` weighs the labels that are absent")
        return focal_loss(
            logits,
            targets,
            **self.settings(),
            class_axis=self.class_axis,
            takes_ids=self.takes_ids,
            normalizer=normalizer,
        )

    @property
    def least_count(self) -> float:  # type: ignore[override]
        """Without any positive item, the negative ones count still."""
        return 1 if self.normalize_by == "positives" and self.activation != "softmax" else 0

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each item that is not ignored, or how positive it is."""
        if self.activation == "softmax":
            return counts_of_ids(targets[0], self.ignore_index, self.class_axis)
        return _counts(targets[0], self.ignore_index, self.normalize_by)


def _sigmoid_focal(
    logits: Tensor,
    targets: Tensor,
    alpha: float | Tensor | None,
    gamma: float,
    ignore_index: int | None,
    label_smoothing: float,
    class_axis: int | None,
) -> Tensor:
    if targets.ndim == logits.ndim - 1 and not targets.is_floating_point():
        return _one_vs_rest_focal(logits, targets, alpha, gamma, ignore_index, label_smoothing, class_axis)
    dtype = targets.dtype
    logits, targets = alike(logits, targets, ("logits", "targets"))
    valid = None
    if ignore_index is not None:
        valid = targets != ignore_index
        targets = targets.masked_fill(~valid, 0)
    checking.require_labels(targets, dtype)
    targets = _smoothed(targets, label_smoothing, 2)
    weights = alpha
    if isinstance(alpha, Tensor):
        # Images have their classes at axis 1, if any; sets of labels have them last.
        axis = 1 if class_axis == 1 or logits.ndim > 3 else -1
        if axis == 1 and logits.ndim < 4:
            raise ValueError(f"alpha has a number per class, but logits {tuple(logits.shape)} have no class axis")
        weights = along(cast(Tensor, class_constant(alpha, "alpha", logits, axis)), axis, logits.ndim)
    return masked(_binary_focal(logits, targets, weights, gamma), valid)


def _one_vs_rest_focal(
    logits: Tensor,
    ids: Tensor,
    alpha: float | Tensor | None,
    gamma: float,
    ignore_index: int | None,
    label_smoothing: float,
    class_axis: int | None,
) -> Tensor:
    """For class ids, a yes-or-no question per class, and the mean of their losses."""
    given = read_classes(logits, ids, axis=class_axis, ignore_index=ignore_index)
    scores = given.logits.movedim(given.axis, -1)
    labels = torch.zeros_like(scores).scatter(-1, given.targets.unsqueeze(-1), 1.0)
    labels = _smoothed(labels, label_smoothing, 2)
    weights = class_constant(alpha, "alpha", scores, -1) if isinstance(alpha, Tensor) else alpha
    return masked(_binary_focal(scores, labels, weights, gamma).mean(-1), given.valid)


def _binary_focal(logits: Tensor, targets: Tensor, alpha: float | Tensor | None, gamma: float) -> Tensor:
    logits = finite_logits(logits)
    # torch's own loses the digits of easy negatives: it subtracts numbers of the logits' size.
    # Unlike softplus, logsigmoid is exact at every size.
    values = -targets * F.logsigmoid(logits) - (1 - targets) * F.logsigmoid(-logits)
    if gamma:
        # `1 - sigmoid(x)` would lose all digits of a small chance of being wrong.
        wrong = targets * (-logits).sigmoid() + (1 - targets) * logits.sigmoid()
        values = values * _power(wrong, gamma)
    return values if alpha is None else values * (targets * alpha + (1 - targets) * (1 - alpha))


def _softmax_focal(
    logits: Tensor,
    targets: Tensor,
    alpha: float | Tensor | None,
    gamma: float,
    ignore_index: int | None,
    label_smoothing: float,
    class_axis: int | None,
) -> Tensor:
    given = read_classes(logits, targets, axis=class_axis, ignore_index=ignore_index)
    axis = given.axis
    log_p = sharing.log_softmax(given.logits, axis)
    weights = class_constant(alpha, "alpha", given.logits, axis) if isinstance(alpha, Tensor) else None
    values = torch.zeros((), dtype=log_p.dtype, device=log_p.device)
    if given.are_ids:
        # What is ignored stands as class 0, which perhaps cannot be: a log p of -inf has a gradient of NaN.
        own = masked(log_p.gather(axis, given.targets.unsqueeze(axis)).squeeze(axis), given.valid)
        values = _log_focal(own, gamma)
        values = (1 - label_smoothing) * (values if weights is None else values * weights[given.targets])
        if not label_smoothing:
            return masked(values, given.valid)
    # Classes that cannot be have logits of -inf; they get no share of the label, and must not make it NaN.
    possible = (log_p > -math.inf).to(log_p.dtype)
    labels = label_smoothing * possible / possible.sum(axis, keepdim=True)
    if not given.are_ids:
        labels = labels + (1 - label_smoothing) * given.targets
    terms = (labels * _log_focal(log_p.clamp_min(-1e30), gamma)).movedim(axis, -1)
    return masked(values + (terms if weights is None else terms * weights).sum(-1), given.valid)


def _sigmoid_kernel(
    logits: Tensor,
    targets: Tensor,
    alpha: float | Tensor | None,
    gamma: float,
    ignore_index: int | None,
    label_smoothing: float,
) -> tuple[Kernel | None, bool]:
    """The kernel for labels shaped like the logits, where they are usual, and whether all of them count."""
    if isinstance(alpha, Tensor) or targets.is_complex():
        return None, False
    low, high = (extreme.item() for extreme in targets.aminmax())
    all_count = ignore_index is None or not low <= ignore_index <= high
    if not targets.is_floating_point() and not (low >= 0 and high <= 1):
        return None, all_count  # some are to be ignored, or wrong

    def values(logits: Tensor, labels: Tensor) -> Tensor:
        return _sigmoid_focal(logits, labels, alpha, gamma, ignore_index, label_smoothing, None)

    if label_smoothing:
        return kernel_of_elements(by_autograd(values), targets, num_rooms=8), all_count
    ignored = None if all_count else ignore_index
    elements = focal_labels(alpha, gamma, ignored, values)
    return kernel_of_elements(elements, targets, num_rooms=4), all_count


def _one_vs_rest_kernel(
    given: Classes, alpha: float | Tensor | None, gamma: float, average_classes: bool
) -> Kernel | None:
    """The kernel for class ids that are taken for a yes-or-no question per class."""
    if not given.are_ids or isinstance(alpha, Tensor):
        return None

    def values(logits: Tensor, labels: Tensor) -> Tensor:
        return _binary_focal(logits, labels, alpha, gamma)

    elements = focal_labels(alpha, gamma, NOT_COUNTED, values)
    return kernel_of_one_hot(elements, given.targets, given.valid, given.axis, num_rooms=5)


def _softmax_kernel(given: Classes, alpha: float | Tensor | None, gamma: float, average_classes: bool) -> Kernel | None:
    r"""For class ids: $\phi = -q^\gamma \log p$ and $\phi' = q^\gamma (\gamma p \log p / q - 1)$, with $q = 1 - p$."""
    if not given.are_ids:
        return None
    weights = class_constant(alpha, "alpha", given.logits, given.axis) if isinstance(alpha, Tensor) else None
    scale = 1 / given.logits.shape[given.axis] if average_classes else 1.0

    def costs(log_p: Tensor, ids: Tensor, room: Workspace) -> tuple[Tensor, Tensor]:
        missed = torch.expm1(log_p, out=room("missed", log_p.shape)).neg_()
        missed.clamp_min_(torch.finfo(missed.dtype).tiny)
        powers = torch.pow(missed, gamma, out=room("powers", log_p.shape))
        # p log p / q, which is at its limit of -1 where p is 1
        ratios = torch.sub(1, missed, out=room("ratios", log_p.shape)).mul_(log_p).div_(missed)
        slopes = ratios.mul_(gamma).sub_(1).mul_(powers)
        values = log_p.mul_(powers).neg_()
        factors = scale if weights is None else scale * weights[ids]
        return values.mul_(factors), slopes.mul_(factors)

    return kernel_of_ids(given.targets, given.valid, given.axis, costs)


def _smoothed(labels: Tensor, label_smoothing: float, num_classes: int) -> Tensor:
    return labels * (1 - label_smoothing) + label_smoothing / num_classes if label_smoothing else labels


def _log_focal(log_p: Tensor, gamma: float) -> Tensor:
    return -log_p * _power(-log_p.expm1(), gamma) if gamma else -log_p


def _power(chance: Tensor, gamma: float) -> Tensor:
    """`chance ** gamma`, with a finite gradient at 0 for gamma below 1 too."""
    return chance.clamp_min(torch.finfo(chance.dtype).tiny) ** gamma


def _counts(targets: Tensor, ignore_index: int | None, normalize_by: str) -> Tensor:
    if not targets.is_floating_point():
        targets = targets.long()  # in uint8, -100 would be 156
    valid = torch.ones_like(targets, dtype=torch.bool) if ignore_index is None else targets != ignore_index
    return valid if normalize_by == "items" else targets * valid
