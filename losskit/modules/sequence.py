"""Cross-entropy of sequences: one class per step, of which some do not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.constants import SEQUENCE, TEXT
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss
from losskit.modules.class_ids import counts_of_ids
from losskit.modules.classification import (
    NEVER_A_CLASS,
    SoftmaxCrossEntropyLoss,
    softmax_cross_entropy_loss,
)
from losskit.modules.shapes import read_classes, require_integers, require_tensor
from losskit.registry import register_loss
from losskit.schema.sequence import (
    CaptionCrossEntropyLossConfig,
    NextTokenSoftmaxCrossEntropyLossConfig,
    SequenceSoftmaxCrossEntropyLossConfig,
)


def sequence_softmax_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int | None = 2,
    label_smoothing: float = 0.0,
    robust_lambda: float = 0.0,
    confidence_penalty: float = 0.0,
    class_similarities: Tensor | None = None,
    class_similarities_temperature: float = 0.0,
    unique: bool = False,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `SequenceSoftmaxCrossEntropyLoss`."""
    _require_steps(logits, targets)
    return softmax_cross_entropy_loss(
        logits,
        _counted(targets, ignore_index, unique),
        class_weights=class_weights,
        ignore_index=NEVER_A_CLASS,
        label_smoothing=label_smoothing,
        robust_lambda=robust_lambda,
        confidence_penalty=confidence_penalty,
        class_similarities=class_similarities,
        class_similarities_temperature=class_similarities_temperature,
        class_axis=-1,
        reduction=reduction,
        normalizer=normalizer,
    )


@register_loss("sequence_softmax_cross_entropy", [SEQUENCE, TEXT], schema=SequenceSoftmaxCrossEntropyLossConfig)
class SequenceSoftmaxCrossEntropyLoss(SoftmaxCrossEntropyLoss):
    r"""Cross-entropy of each step of a sequence, without its padding; the usual first choice for sequences and text.

    With $p_t = \mathrm{softmax}(z_t)$ and the class $y_t$ of step $t$: $L_t = -\log p_{t, y_t}$, with all settings of
    `softmax_cross_entropy`, over all steps of which the class is not `ignore_index`, that is Ludwig's padding, 2. With
    `unique`, each class counts once per sequence, at its first step.

    Shapes: logits `(batch, steps, classes)`; targets `(batch, steps)` ids; a scalar, or `(batch, steps)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Ludwig, which leaves out the first sequence of each batch.

    >>> SequenceSoftmaxCrossEntropyLoss()(torch.tensor([[[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]]]), torch.tensor([[0, 2]]))
    tensor(0.2395)
    """

    takes_ids_alone = True
    # Not any class, which would be the first of its kind, or that of a next step.
    harmless_target = NEVER_A_CLASS

    def __init__(
        self,
        *,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = 2,
        label_smoothing: float = 0.0,
        robust_lambda: float = 0.0,
        confidence_penalty: float = 0.0,
        class_similarities: Sequence[Sequence[float]] | None = None,
        class_similarities_temperature: float = 0.0,
        unique: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            class_weights=class_weights,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            robust_lambda=robust_lambda,
            confidence_penalty=confidence_penalty,
            class_similarities=class_similarities,
            class_similarities_temperature=class_similarities_temperature,
            reduction=reduction,
        )
        self.unique = unique

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return sequence_softmax_cross_entropy_loss(logits, targets, **self.settings(), normalizer=normalizer)

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1, or with class weights that of its label, for each step that counts."""
        ids = _counted(targets[0], self.ignore_index, self.unique)
        return counts_of_ids(ids, NEVER_A_CLASS, -1, self.class_weights)


def next_token_softmax_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    shift: bool = True,
    ignore_index: int | None = -100,
    **settings: Any,
) -> Tensor:
    """See `NextTokenSoftmaxCrossEntropyLoss`; `settings` are those of `sequence_softmax_cross_entropy_loss`."""
    _require_steps(logits, targets)
    if checking.debugging():
        read_classes(logits, targets, axis=-1, ignore_index=ignore_index)  # which knows the index before they move
    ids, ignore_index = _next(targets, ignore_index, shift)
    return sequence_softmax_cross_entropy_loss(logits, ids, ignore_index=ignore_index, **settings)


@register_loss("next_token_softmax_cross_entropy", [SEQUENCE, TEXT], schema=NextTokenSoftmaxCrossEntropyLossConfig)
class NextTokenSoftmaxCrossEntropyLoss(SequenceSoftmaxCrossEntropyLoss):
    r"""Cross-entropy of a language model that predicts, at each step, the token of the next one.

    With $p_t = \mathrm{softmax}(z_t)$ and the class $y_t$ of step $t$: $L_t = -\log p_{t, y_{t+1}}$, with all settings
    of `sequence_softmax_cross_entropy`; the last step has no next one. `shift: false` is for labels that have been
    moved by one step already.

    Shapes: logits `(batch, steps, classes)`; targets `(batch, steps)` ids; a scalar, or `(batch, steps)` unreduced,
    with 0 for the last step. Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Ludwig; padding counts there too, unless `ignore_index` names it.

    >>> NextTokenSoftmaxCrossEntropyLoss()(torch.tensor([[[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]]]), torch.tensor([[1, 0]]))
    tensor(0.2395)
    """

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
        unique: bool = False,
        shift: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__(
            class_weights=class_weights,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            robust_lambda=robust_lambda,
            confidence_penalty=confidence_penalty,
            class_similarities=class_similarities,
            class_similarities_temperature=class_similarities_temperature,
            unique=unique,
            reduction=reduction,
        )
        self.shift = shift

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return next_token_softmax_cross_entropy_loss(logits, targets, **self.settings(), normalizer=normalizer)

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1, or with class weights that of its label, for each step of which the next counts."""
        ids, ignore_index = _next(targets[0], self.ignore_index, self.shift)
        return counts_of_ids(_counted(ids, ignore_index, self.unique), NEVER_A_CLASS, -1, self.class_weights)

    def item_weights(self, weights: Tensor) -> Tensor:
        """Each step has the weight of the next, which it predicts; the last one's value is 0 anyway."""
        return weights.roll(-1, 1) if self.shift and weights.ndim > 1 else weights


def caption_cross_entropy_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    lengths: Tensor | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `CaptionCrossEntropyLoss`."""
    _require_steps(logits, targets)
    return softmax_cross_entropy_loss(
        logits,
        _first(_counted(targets, ignore_index), lengths),
        ignore_index=NEVER_A_CLASS,
        class_axis=-1,
        reduction=reduction,
        normalizer=normalizer,
    )


@register_loss("caption_cross_entropy", [SEQUENCE, TEXT], schema=CaptionCrossEntropyLossConfig)
class CaptionCrossEntropyLoss(AdditiveLoss):
    r"""Cross-entropy of captions, each as long as its own length says.

    With $p_t = \mathrm{softmax}(z_t)$ and the class $y_t$ of step $t$: $L_t = -\log p_{t, y_t}$, over the first
    `lengths - 1` steps of each caption: the lengths count the start, for which nothing is predicted. Without lengths,
    all steps count.

    Shapes: logits `(batch, steps, classes)`; targets `(batch, steps)` ids, and where there is one, the target `lengths`
    `(batch,)`; a scalar, or `(batch, steps)` unreduced.
    Dtypes: logits any floating-point, computed in float32 at least; ids and lengths any integer.
    Source: MMF, which sorts the lengths but not the captions, so that they go to the wrong ones.

    >>> logits, ids = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]]]), torch.tensor([[0, 2]])
    >>> CaptionCrossEntropyLoss()(logits, ids, lengths=torch.tensor([2]))
    tensor(0.2395)
    """

    takes_ids = takes_ids_alone = True
    harmless_target = NEVER_A_CLASS

    def __init__(self, *, ignore_index: int | None = -100, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.ignore_index = ignore_index

    @classmethod
    def get_optional_loss_targets(cls) -> tuple[str, ...]:
        """The keys of the targets that `forward` takes, by name, where there are any."""
        return ("lengths",)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        lengths: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        return caption_cross_entropy_loss(logits, targets, lengths=lengths, **self.settings(), normalizer=normalizer)

    def item_counts(
        self, *targets: Tensor, inputs: Sequence[Tensor] = (), lengths: Tensor | None = None, **optional: Any
    ) -> Tensor:
        """1 for each step that counts."""
        return counts_of_ids(_first(_counted(targets[0], self.ignore_index), lengths), NEVER_A_CLASS, -1)


def _require_steps(logits: Tensor, targets: Tensor) -> None:
    """Refuses all but logits `(batch, steps, classes)` and class ids `(batch, steps)`."""
    for tensor, name in ((logits, "logits"), (targets, "targets")):
        require_tensor(tensor, name)
    if logits.ndim != 3 or targets.shape != logits.shape[:2]:
        text = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit"
        if logits.ndim == 3 and targets.shape == (logits.shape[0], logits.shape[2]):
            raise ValueError(f"{text}: the classes must be on the last axis; use logits.transpose(1, 2)")
        raise ValueError(f"{text}: they must be (batch, steps, classes) and class ids (batch, steps)")
    require_integers(targets)


def _counted(ids: Tensor, ignore_index: int | None, unique: bool = False) -> Tensor:
    """The ids, with `NEVER_A_CLASS` for those that do not count."""
    ids = ids.long()
    if ignore_index is not None:
        ids = ids.masked_fill(ids == ignore_index, NEVER_A_CLASS)
    return ids.masked_fill(~_is_first(ids), NEVER_A_CLASS) if unique else ids


def _is_first(ids: Tensor) -> Tensor:
    """Where each id stands for the first time in its row."""
    ranked, order = ids.sort(dim=1, stable=True)
    is_first = (ranked != ranked.roll(1, 1)) | (torch.arange(ids.shape[1], device=ids.device) == 0)
    return torch.zeros_like(is_first).scatter(1, order, is_first)


def _next(ids: Tensor, ignore_index: int | None, shift: bool) -> tuple[Tensor, int | None]:
    """The id of each step's next step, and which id does not count.

    The last step has none. To move the ids spares a copy of the logits without their last step.
    """
    if not shift:
        return ids, ignore_index
    is_last = torch.arange(1, ids.shape[1] + 1, device=ids.device) == ids.shape[1]
    return _counted(ids, ignore_index).roll(-1, 1).masked_fill(is_last, NEVER_A_CLASS), NEVER_A_CLASS


def _first(ids: Tensor, lengths: Tensor | None) -> Tensor:
    """The ids of the first `lengths - 1` steps."""
    if lengths is None:
        return ids
    is_mask = isinstance(lengths, Tensor) and lengths.dtype == torch.bool
    if not isinstance(lengths, Tensor) or is_mask or lengths.is_floating_point() or lengths.shape != ids.shape[:1]:
        found = f"{tuple(lengths.shape)}" if isinstance(lengths, Tensor) else type(lengths).__name__
        cure = "; use mask.sum(1) + 1" if is_mask else ""
        raise ValueError(f"lengths must be integers, one per row of the targets {tuple(ids.shape)}, got {found}{cure}")
    steps = ids.shape[1]
    lengths = lengths.long()
    if lengths.numel():
        message = (
            f"lengths must be from 0 to {steps + 1}, for targets {tuple(ids.shape)} of {steps} steps and the start"
        )
        in_range = ((lengths >= 0) & (lengths <= steps + 1)).all()
        checking.require(in_range, lambda: message, "lengths hold a number that is out of range")
    beyond = torch.arange(1, steps + 1, device=ids.device) >= lengths.unsqueeze(1)
    return ids.masked_fill(beyond, NEVER_A_CLASS)
