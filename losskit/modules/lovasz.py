"""Losses whose value is the overlap of regions itself, made convex."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from losskit.constants import IMAGE
from losskit.modules import checking, fused, sharing
from losskit.modules.base import Loss
from losskit.modules.fused_lovasz import jaccard_steps, kernel_of_classes, kernel_of_masks
from losskit.modules.reduction import check_reduction, reduce
from losskit.modules.shapes import Classes, floating, read_classes, require_alike, require_floating
from losskit.registry import register_loss
from losskit.schema.lovasz import LovaszHingeLossConfig, LovaszSoftmaxLossConfig


def lovasz_softmax_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    classes: str = "present",
    per_image: bool = False,
    ignore_index: int | None = -100,
    reduction: str = "mean",
) -> Tensor:
    """See `LovaszSoftmaxLoss`."""
    check_reduction(reduction)
    checking.check_option("classes", classes, ("present", "all"))
    given = read_classes(logits, targets, axis=1, ignore_index=ignore_index, upcast=False)
    if not given.are_ids or given.logits.ndim == 1:
        raise ValueError(
            f"targets {tuple(targets.shape)} must be class ids, (batch, ...), for logits {tuple(logits.shape)} "
            "(batch, classes, ...)"
        )

    def of_values(values: Tensor, counts: Tensor) -> Tensor:
        values = torch.where(counts, values, torch.zeros_like(values))
        if per_image:
            num_counted = counts.sum(1)
            values, counts = values.sum(1) / num_counted.clamp_min(1), num_counted > 0
        else:
            values, counts = values.squeeze(0), counts.squeeze(0)
        return reduce(values, reduction, count=counts.sum())

    def plain(logits: Tensor) -> Tensor:
        return of_values(*_values_of_classes(given.of(logits), classes, per_image))

    # A kernel sorts the pixels of each class by themselves; that takes a while to call.
    is_possible = reduction != "none" and fused.can_fuse(given.logits)
    if not is_possible or _num_sorted(given.targets, per_image) < fused.LEAST_SIZE / 32:
        return plain(given.logits)
    kernel = kernel_of_classes(given, of_values, per_image, classes == "all")
    return fused.fused(kernel, plain, given.logits, constants=[given.targets])


def _num_sorted(targets: Tensor, per_image: bool) -> int:
    """How many pixels are sorted at once."""
    return targets.numel() // (max(len(targets), 1) if per_image else 1)


def _values_of_classes(given: Classes, classes: str, per_image: bool) -> tuple[Tensor, Tensor]:
    """The values of all classes, `(images, classes)` or `(1, classes)`, and which of them count."""
    num_classes = given.logits.shape[1]
    # (images, classes, pixels), or (1, classes, all pixels)
    probabilities = sharing.softmax(given.logits, 1).unsqueeze(-1).flatten(2)
    ids = given.targets.unsqueeze(-1).flatten(1).unsqueeze(1)
    valid = torch.ones_like(ids, dtype=torch.bool)
    if given.valid is not None:
        valid = given.valid.unsqueeze(-1).flatten(1).unsqueeze(1)
    if not per_image:
        probabilities = probabilities.transpose(0, 1).flatten(1).unsqueeze(0)
        ids, valid = ids.reshape(1, 1, -1), valid.reshape(1, 1, -1)
    is_class = (ids == torch.arange(num_classes, device=ids.device).reshape(-1, 1)) & valid
    errors = torch.where(is_class, 1 - probabilities, probabilities)
    counts = (is_class if classes == "present" else valid.expand_as(is_class)).any(-1)
    return _extension(errors, is_class, valid), counts


@register_loss("lovasz_softmax", [IMAGE], schema=LovaszSoftmaxLossConfig)
class LovaszSoftmaxLoss(Loss):
    r"""Trains for the mean overlap (intersection over union) of regions itself; often added to cross-entropy.

    For each class $c$, with errors $e_i = 1 - p_i(c)$ on its pixels and $p_i(c)$ elsewhere, sorted from the largest:
    $L_c = \sum_i e_i\,(J_i - J_{i-1})$, where $J_i$ is the Jaccard loss of a mask in which the $i$ pixels with the
    largest errors are wrong. The loss is the mean of $L_c$ over the classes that count, and with `per_image`, then
    over the images with a pixel that counts.

    Shapes: logits `(batch, classes, ...)`, ids `(batch, ...)`; a scalar, or `(classes,)`, with `per_image` `(batch,)`,
    unreduced. Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    An overlap is no mean over pixels: the loss of a batch is not that of its parts.
    Source: Berman et al., "The Lovász-Softmax Loss", 2018.

    >>> LovaszSoftmaxLoss()(torch.tensor([[[[0.0, 9.0]], [[0.0, -9.0]]]]), torch.tensor([[[1, 0]]]))
    tensor(0.3750)
    """

    def __init__(
        self,
        *,
        classes: str = "present",
        per_image: bool = False,
        ignore_index: int | None = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.classes = classes
        self.per_image = per_image
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return lovasz_softmax_loss(logits, targets, **self.settings())


def lovasz_hinge_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    per_image: bool = True,
    ignore_index: int | None = -100,
    reduction: str = "mean",
) -> Tensor:
    """See `LovaszHingeLoss`."""
    check_reduction(reduction)
    require_floating(logits, "logits")
    require_alike(logits, targets, ("logits", "targets"))
    if logits.ndim < 2 or (logits.ndim > 3 and logits.shape[1] != 1):
        raise ValueError(
            f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must be one mask per image, "
            "(batch, height, width) or (batch, 1, height, width); for several classes there is lovasz_softmax"
        )

    def of_values(values: Tensor, counts: Tensor) -> Tensor:
        return reduce(values.squeeze(1), reduction, count=counts.sum())

    def plain(logits: Tensor) -> Tensor:
        scores = floating(logits, "logits")
        # uint8 and bool cannot hold a negative index.
        labels = targets if targets.is_floating_point() else targets.long()
        valid = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
        message = "targets hold a value other than 0, 1" + ("" if ignore_index is None else f" and {ignore_index}")
        checking.require_each((labels == 0) | (labels == 1) | ~valid, labels, message)
        scores, labels, valid = (x.flatten(1) if per_image else x.reshape(1, -1) for x in (scores, labels, valid))
        is_inside = (labels == 1) & valid
        errors = torch.where(is_inside, 1 - scores, 1 + scores)
        return of_values(_extension(errors, is_inside, valid).unsqueeze(1), valid.any(-1))

    is_possible = reduction != "none" and fused.can_fuse(logits, targets)
    if not is_possible or _num_sorted(targets, per_image) < fused.LEAST_SIZE / 8:
        return plain(logits)
    kernel = kernel_of_masks(targets, of_values, per_image, ignore_index)
    return fused.fused(kernel, plain, logits, constants=[targets])


@register_loss("lovasz_hinge", [IMAGE], schema=LovaszHingeLossConfig)
class LovaszHingeLoss(Loss):
    r"""Trains a single mask per image for its overlap (intersection over union) itself.

    With signs $s_i = \pm 1$ of the pixels inside and outside the mask and errors $e_i = 1 - s_i z_i$, sorted from the
    largest: $L = \sum_i \max(0, e_i)\,(J_i - J_{i-1})$, where $J_i$ is the Jaccard loss of a mask in which the $i$
    pixels with the largest errors are wrong; the mean over images with a pixel that counts.

    Shapes: logits and targets alike, `(batch, height, width)` or `(batch, 1, height, width)`; a scalar, or `(batch,)`
    unreduced, and `(1,)` where `per_image` is false. Dtypes: logits any floating-point, computed in float32 at least;
    targets 0 and 1 in any dtype, or `ignore_index`.
    Source: Berman et al., "The Lovász-Softmax Loss", 2018.

    >>> LovaszHingeLoss()(torch.tensor([[[2.0, -0.5]]]), torch.tensor([[[1, 0]]]))
    tensor(0.2500)
    """

    def __init__(self, *, per_image: bool = True, ignore_index: int | None = -100, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.per_image = per_image
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return lovasz_hinge_loss(logits, targets, **self.settings())

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """A mask per image, in floats: where all logits are equal, the gradient depends on how ties are sorted."""
        masks = torch.randint(2, (6, 4, 4), generator=generator).float()
        return (torch.randn(6, 4, 4, generator=generator),), (masks,)


def _extension(errors: Tensor, is_inside: Tensor, valid: Tensor) -> Tensor:
    """The Lovász extension of the Jaccard loss, along the last axis; negative errors cost nothing."""
    if errors.shape[-1] == 0:
        return errors.sum(-1)
    valid = valid.expand_as(errors)
    # Pixels that do not count come last, where they change the weight of no other.
    order = errors.detach().masked_fill(~valid, -math.inf).argsort(-1, descending=True)
    errors = torch.where(valid, errors.clamp_min(0), torch.zeros_like(errors))
    # The weights are constant between changes of the order, and so have no gradient.
    steps = jaccard_steps(is_inside.gather(-1, order), is_inside.sum(-1, keepdim=True), errors.dtype)
    return (errors.gather(-1, order) * steps).sum(-1)
