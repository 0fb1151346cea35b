"""Losses between predicted and true regions of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from losskit.constants import IMAGE
from losskit.modules import checking, fused, sharing
from losskit.modules.base import Loss
from losskit.modules.fused_overlap import kernel_of_overlaps
from losskit.modules.reduction import check_reduction, reduce
from losskit.modules.shapes import Classes, class_constant, read_classes, require_alike, require_floating
from losskit.registry import register_loss
from losskit.schema.segmentation import DiceLossConfig

# Which axes of `(batch, classes)` one overlap is summed over, besides the pixels.
_AXES = {"sample_class": (), "class": (0,), "micro": (1,), "batch": (0, 1)}

# Of which the logarithm is taken where there is none, in every dtype.
_LEAST_OVERLAP = 1e-7


def dice_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    smooth: float = 1.0,
    smooth_denominator: float | None = None,
    average: str = "sample_class",
    classes: str | Sequence[int] = "all",
    include_background: bool = True,
    squared: bool = False,
    log: bool = False,
    class_weights: Tensor | None = None,
    ignore_index: int | None = -100,
    activation: str = "auto",
    reduction: str = "mean",
) -> Tensor:
    """See `DiceLoss`."""
    check_reduction(reduction)
    checking.check_option("average", average, tuple(_AXES))
    checking.check_option("activation", activation, ("auto", "softmax", "sigmoid", "none"))
    given, activation = _read(logits, targets, activation, ignore_index)
    weights = class_constant(class_weights, "class_weights", given.logits, 1)
    kept = _kept_classes(given.logits.shape[1], classes, include_background)

    def of_sums(*sums: Tensor) -> Tensor:
        overlaps, sizes, true_sizes = (_merged(x if kept is None else x[:, kept], average) for x in sums)
        below = sizes + true_sizes + (smooth if smooth_denominator is None else smooth_denominator)
        # Nothing predicted where nothing is: a perfect fit, whatever the smoothing says.
        empty = sizes + true_sizes == 0
        dice = (2 * overlaps + smooth) / torch.where(empty, torch.ones_like(below), below)
        dice = torch.where(empty, torch.ones_like(dice), dice)
        values = -dice.clamp_min(_LEAST_OVERLAP).log() if log else 1 - dice
        counts = torch.ones_like(values)
        if weights is not None and average in ("sample_class", "class"):
            counts = counts * (weights if kept is None else weights[kept])
        if classes == "present":
            counts = counts * (true_sizes > 0)
        return reduce(values * counts, reduction, count=counts.sum())

    def plain(logits: Tensor) -> Tensor:
        probabilities, masks = _regions(given.of(logits), given.targets.dtype, activation, ignore_index)
        overlaps = (probabilities * masks).sum(2)
        sizes = (probabilities.square() if squared else probabilities).sum(2)
        return of_sums(overlaps, sizes, (masks.square() if squared else masks).sum(2))

    is_constant = not given.targets.requires_grad and (weights is None or not weights.requires_grad)
    if reduction == "none" or not is_constant or not fused.can_fuse(given.logits, given.targets, times_least_size=16):
        return plain(given.logits)
    kernel = kernel_of_overlaps(given, activation, of_sums, squared=squared, ignore_index=ignore_index)
    return fused.fused(kernel, plain, given.logits, constants=[given.targets])


@register_loss("dice", [IMAGE], schema=DiceLossConfig)
class DiceLoss(Loss):
    r"""One minus the overlap of predicted and true regions: small regions count as much as large ones.

    With probabilities $p$ and masks $m$, summed over pixels, and $s$ = `smooth`:
    $L = 1 - \frac{2 \sum p\,m + s}{\sum p + \sum m + s}$, the mean over samples and classes.

    Shapes: logits `(batch, classes, ...)` and ids `(batch, ...)`; or both `(batch, classes, height, width, ...)`, the
    targets masks in [0, 1]; or both `(batch, height, width)`, one mask each. A scalar, or the overlaps as `average`
    says unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer, masks bool, integer or in [0, 1].
    An overlap is a ratio of sums, so it is no mean over pixels: the loss of a batch is not that of its parts.
    Source: Milletari et al., "V-Net", 2016.

    >>> DiceLoss()(torch.tensor([[[[9.0]], [[-9.0]]]]), torch.tensor([[[0]]]))
    tensor(0.)
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        smooth: float = 1.0,
        smooth_denominator: float | None = None,
        average: str = "sample_class",
        classes: str | Sequence[int] = "all",
        include_background: bool = True,
        squared: bool = False,
        log: bool = False,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = -100,
        activation: str = "auto",
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.smooth = smooth
        self.smooth_denominator = smooth_denominator
        self.average = average
        self.classes = classes
        self.include_background = include_background
        self.squared = squared
        self.log = log
        self.set_constant("class_weights", class_weights)
        self.ignore_index = ignore_index
        self.activation = activation

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return dice_loss(logits, targets, **self.settings())


def _kept_classes(num_classes: int, classes: str | Sequence[int], include_background: bool) -> slice | list[int] | None:
    """Which classes count; None for all of them."""
    if not include_background and num_classes == 1:
        raise ValueError("include_background is false, but there is one class only")
    if isinstance(classes, str):
        checking.check_option("classes", classes, ("all", "present"))
        return None if include_background else slice(1, None)
    kept = [class_id for class_id in classes if include_background or class_id != 0]
    if not kept or max(kept) >= num_classes:
        raise ValueError(f"classes are {list(classes)}, but the logits have {num_classes}: 0 to {num_classes - 1}")
    return kept


def _merged(sums: Tensor, average: str) -> Tensor:
    """Of sums `(batch, classes)`, those of what one overlap is taken over."""
    axes = _AXES[average]
    return sums.sum(axes) if axes else sums


def _one_hot(ids: Tensor, logits: Tensor) -> Tensor:
    """1 for the class of each pixel, `(batch, classes, pixels)`."""
    zeros = torch.zeros_like(logits, requires_grad=False).unsqueeze(-1).flatten(2)
    return zeros.scatter(1, ids.unsqueeze(-1).flatten(1).unsqueeze(1), 1.0)


def _read(logits: Tensor, targets: Tensor, activation: str, ignore_index: int | None) -> tuple[Classes, str]:
    """Logits with a class axis, ids or masks, still in their own dtypes; and the activation that `auto` means."""
    if not isinstance(logits, Tensor) or not isinstance(targets, Tensor) or logits.shape != targets.shape:
        given = read_classes(logits, targets, axis=1, ignore_index=ignore_index, upcast=False)
        return given, "softmax" if activation == "auto" else activation
    require_floating(logits, "logits")
    require_alike(logits, targets, ("logits", "targets"))
    if targets.is_floating_point():
        checking.require_finite(targets, "targets")
    if logits.ndim < 2:
        raise ValueError(f"logits {tuple(logits.shape)} have no pixels; masks are (batch, height, width)")
    # Without a class axis, there is one region.
    scores, masks = (x if x.ndim > 3 else x.unsqueeze(1) for x in (logits, targets))
    if activation == "softmax" and scores.shape[1] == 1:
        raise ValueError(f"a softmax over the single class of logits {tuple(logits.shape)} is 1; use sigmoid")
    return Classes(scores, masks, 1, False, None), "sigmoid" if activation == "auto" else activation


def _regions(given: Classes, given_as: torch.dtype, activation: str, ignore_index: int | None) -> tuple[Tensor, Tensor]:
    """Probabilities and masks `(batch, classes, pixels)`, both 0 where the target is ignored.

    `given_as` is the dtype in which the masks came.
    """
    if given.are_ids:
        masks = sharing.once(_one_hot, (given.targets, given.logits))
        valid = None if given.valid is None else given.valid.unsqueeze(-1).flatten(1).unsqueeze(1)
    else:
        masks = given.targets.unsqueeze(-1).flatten(2)
        # Neither bool nor uint8 can hold a negative index.
        cannot_ignore = given_as == torch.bool or (given_as == torch.uint8 and (ignore_index or 0) < 0)
        valid = None if ignore_index is None or cannot_ignore else masks != ignore_index
        masks = masks if valid is None else masks.masked_fill(~valid, 0)
        checking.require_labels(masks, given_as)
    if activation == "none":
        checking.require_between(given.logits, "logits", 0, 1)
        probabilities = given.logits
    else:
        # Before the pixels are laid out in a row, as other losses of the feature have them.
        probabilities = sharing.softmax(given.logits, 1) if activation == "softmax" else given.logits.sigmoid()
    probabilities = probabilities.unsqueeze(-1).flatten(2)
    if valid is None:
        return probabilities, masks
    return probabilities * valid, masks * valid if given.are_ids else masks
