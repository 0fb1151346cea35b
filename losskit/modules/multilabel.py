"""Losses for sets of labels, any number of which may be right."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import SEQUENCE, SET
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss, ones
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.binary import BceWithLogitsLoss, bce_with_logits_loss, finite_logits, read_labels
from losskit.modules.reduction import WITH_BATCHMEAN, masked, reduce, reduced_by_torch
from losskit.modules.shapes import class_constant, require_alike, require_last_axis, require_tensor
from losskit.registry import register_loss
from losskit.schema.multilabel import (
    LogitBceLossConfig,
    M4cDecodingBceWithMaskLossConfig,
    SigmoidCrossEntropyLossConfig,
    TripleLogitBceLossConfig,
)


def sigmoid_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `SigmoidCrossEntropyLoss`."""
    logits, targets = read_labels(logits, targets)
    weights = class_constant(class_weights, "class_weights", logits, -1)
    torch_loss = functools.partial(
        F.binary_cross_entropy_with_logits, finite_logits(logits), targets, pos_weight=weights
    )
    return reduced_by_torch(lambda how: torch_loss(reduction=how), logits, reduction, normalizer)


@register_loss("sigmoid_cross_entropy", [SET], schema=SigmoidCrossEntropyLossConfig)
class SigmoidCrossEntropyLoss(AdditiveLoss):
    r"""Asks for each label on its own whether it applies: a yes-or-no cross-entropy per label.

    With $p = \sigma(z)$ and $w_c$ the class weights: $L = -w_c\,y \log p - (1 - y) \log(1 - p)$.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or the same shape unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: `torch.nn.BCEWithLogitsLoss`, whose `pos_weight` the class weights are.

    >>> SigmoidCrossEntropyLoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([[1, 0]]))
    tensor(1.4100)
    """

    class_weights: Tensor | None

    def __init__(self, *, class_weights: Sequence[float] | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.set_constant("class_weights", class_weights)

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return sigmoid_cross_entropy_loss(logits, targets, **self.settings(), normalizer=normalizer)


def logit_bce_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    reduction: str = "batchmean",
    **settings: Any,
) -> Tensor:
    """See `LogitBceLoss`; takes what `bce_with_logits_loss` takes."""
    return bce_with_logits_loss(logits, targets, reduction=reduction, **settings)


@register_loss("logit_bce", [SET], schema=LogitBceLossConfig)
class LogitBceLoss(BceWithLogitsLoss):
    r"""Binary cross-entropy added up over the labels of each sample, as in MMF's models for questions about images.

    The loss `bce_with_logits` with the reduction `batchmean`:
    $L = -\frac{1}{N} \sum_{n,c} \left(y_{nc} \log \sigma(z_{nc}) + (1 - y_{nc}) \log(1 - \sigma(z_{nc}))\right)$.

    Shapes: logits and targets `(batch, ..., classes)`, alike; a scalar, or the same shape unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: MMF's `logit_bce`, the mean times the number of classes.

    >>> LogitBceLoss()(torch.tensor([[0.0, 2.0]]), torch.tensor([[1, 0]]))
    tensor(2.8201)
    """

    def __init__(
        self,
        *,
        pos_weight: float | Sequence[float] | None = None,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "batchmean",
    ) -> None:
        super().__init__(
            pos_weight=pos_weight, class_weights=class_weights, label_smoothing=label_smoothing, reduction=reduction
        )


def triple_logit_bce_loss(
    logits: Tensor, targets: Tensor, *, reduction: str = "batchmean", normalizer: Tensor | float | None = None
) -> Tensor:
    """See `TripleLogitBceLoss`."""
    both = isinstance(logits, Tensor) and isinstance(targets, Tensor)
    has_branches = both and logits.ndim == 3 and logits.shape[:1] + logits.shape[2:] == targets.shape
    repeated = targets.unsqueeze(1).expand_as(logits) if has_branches else targets
    logits, repeated = read_labels(logits, repeated)
    values = F.binary_cross_entropy_with_logits(finite_logits(logits), repeated, reduction="none")
    return reduce(values.sum(1) if has_branches else values, reduction, normalizer=normalizer)


@register_loss("triple_logit_bce", [SET], schema=TripleLogitBceLossConfig)
class TripleLogitBceLoss(AdditiveLoss):
    r"""Asks several branches of a model for the same labels, and adds up their binary cross-entropies.

    $L = -\frac{1}{N} \sum_{n,b,c} \left(y_{nc} \log \sigma(z_{nbc}) + (1 - y_{nc}) \log(1 - \sigma(z_{nbc}))\right)$;
    the mean divides by the number of targets in place of samples.

    Shapes: logits `(batch, branches, classes)`, or `(batch, classes)` of a single branch; targets `(batch, classes)`;
    a scalar, or the targets' shape unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets bool, integer or in [0, 1].
    Source: MMF's `triple_logit_bce`, for any number of branches.

    >>> TripleLogitBceLoss()(torch.tensor([[[0.0, 2.0], [0.0, 2.0], [0.0, 2.0]]]), torch.tensor([[1, 0]]))
    tensor(8.4602)
    """

    reductions = WITH_BATCHMEAN
    has_branches = True

    def __init__(self, *, reduction: str = "batchmean") -> None:
        super().__init__(reduction=reduction)

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Logits of several branches, of which there are more than labels."""
        logits = torch.randn(6, sizes.classes + 1, sizes.classes, generator=generator)
        return (logits,), (torch.randint(2, (6, sizes.classes), generator=generator),)

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return triple_logit_bce_loss(logits, targets, **self.settings(), normalizer=normalizer)


def m4c_decoding_bce_with_mask_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `M4cDecodingBceWithMaskLoss`."""
    require_alike(logits, targets, ("logits", "targets"))
    require_last_axis(logits)
    if mask is not None:
        _require_mask(mask, logits)
        # Padding may hold anything, and NaN times 0 is NaN.
        logits, targets = (masked(tensor, (mask != 0).unsqueeze(-1)) for tensor in (logits, targets))
    logits, targets = read_labels(logits, targets)
    values = F.binary_cross_entropy_with_logits(finite_logits(logits), targets, reduction="none").sum(-1)
    if mask is not None:
        values = values * mask.to(values.dtype)
    count: Tensor | int = max(values.numel(), 1)
    if mask is not None:
        count = mask.sum(dtype=torch.float64 if mask.dtype == torch.float64 else torch.float32).clamp_min(1)
    return reduce(values, reduction, count=count, normalizer=normalizer)


@register_loss("m4c_decoding_bce_with_mask", [SEQUENCE, SET], schema=M4cDecodingBceWithMaskLossConfig)
class M4cDecodingBceWithMaskLoss(AdditiveLoss):
    r"""Binary cross-entropy for decoders whose steps have several right words each; masked steps do not count.

    With the mask $m$: $L = \frac{\sum_t m_t \ell_t}{\max(1, \sum_t m_t)}$, where
    $\ell_t = -\sum_c \left(y_{tc} \log \sigma(z_{tc}) + (1 - y_{tc}) \log(1 - \sigma(z_{tc}))\right)$ over the steps of
    the batch. Steps that the mask leaves out may hold NaN.

    Shapes: logits and targets `(batch, steps, classes)`, for sets `(batch, classes)`, alike; the optional target `mask`
    without the class axis; a scalar, or the mask's shape unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; targets and mask bool, integer or in [0, 1].
    Source: MMF's loss of this name; Hu et al., "Iterative Answer Prediction with Pointer-Augmented Multimodal
    Transformers for TextVQA", 2020.

    >>> logits, targets = torch.zeros(1, 2, 2), torch.tensor([[[1, 0], [0, 0]]])
    >>> M4cDecodingBceWithMaskLoss()(logits, targets, mask=torch.tensor([[1, 0]]))
    tensor(1.3863)
    """

    @classmethod
    def get_optional_loss_targets(cls) -> tuple[str, ...]:
        return ("mask",)

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Several labels per step, which the usual class ids are not."""
        shape = (6, 4, sizes.classes) if feature_type == SEQUENCE else (6, sizes.classes)
        return (torch.randn(shape, generator=generator),), (torch.randint(2, shape, generator=generator),)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        return m4c_decoding_bce_with_mask_loss(logits, targets, mask=mask, **self.settings(), normalizer=normalizer)

    least_count = 1

    def item_counts(
        self, *targets: Tensor, inputs: Sequence[Tensor] = (), mask: Tensor | None = None, **optional: Any
    ) -> Tensor:
        """What the mask says of each step, or 1."""
        if mask is None:
            return ones(targets[0].shape[:-1], targets[0])
        return mask if mask.dtype == torch.float64 else mask.float()


def _require_mask(mask: Tensor, logits: Tensor) -> None:
    require_tensor(mask, "mask")
    if mask.shape != logits.shape[:-1]:
        raise ValueError(
            f"mask {tuple(mask.shape)} does not fit logits {tuple(logits.shape)}; it must have their shape without the "
            f"class axis: {tuple(logits.shape[:-1])}"
        )
    checking.require_between(mask, "mask", 0, 1)
