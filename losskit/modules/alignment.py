"""Losses between a sequence of predictions and a shorter one of labels, of which nobody says where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import AUDIO, SEQUENCE, TEXT
from losskit.modules import checking
from losskit.modules.base import AdditiveLoss, ones
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.reduction import reduce
from losskit.modules.shapes import floating, require_tensor
from losskit.registry import register_loss
from losskit.schema.alignment import CtcLossConfig


def ctc_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    input_lengths: Tensor | None = None,
    target_lengths: Tensor | None = None,
    blank: int = 0,
    zero_infinity: bool = True,
    from_logits: bool = True,
    layout: str = "batch_first",
    padding_index: int | None = -100,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `CtcLoss`."""
    checking.check_option("layout", layout, ("batch_first", "time_first"))
    logits = floating(logits, "logits")
    _require_shapes(logits, targets, layout)
    if layout == "batch_first":
        logits = logits.transpose(0, 1)
    num_steps, num_samples, num_classes = logits.shape
    if not 0 <= blank < num_classes:
        raise ValueError(f"blank is {blank}, but the logits have {num_classes} classes: 0 to {num_classes - 1}")
    labels = targets.long()
    if target_lengths is None:
        labels, label_lengths = _without_padding(labels, padding_index)
    else:
        label_lengths = _lengths(target_lengths, "target_lengths", labels)
        _require_lengths(label_lengths, "target_lengths", labels.shape[1], f"targets {tuple(targets.shape)}")
    if input_lengths is None:
        step_lengths = torch.full((num_samples,), num_steps, device=logits.device)
    else:
        step_lengths = _lengths(input_lengths, "input_lengths", labels)
        _require_lengths(step_lengths, "input_lengths", num_steps, f"logits of {num_steps} steps")
    labels = _checked_labels(labels, label_lengths, num_classes, blank)
    scores = logits.log_softmax(-1) if from_logits else logits
    if num_samples == 0 or num_steps == 0:
        # torch refuses empty tensors. Without steps, only an empty target fits, at no cost.
        values = scores.sum((0, 2))
        if not zero_infinity:
            values = values.masked_fill(label_lengths > 0, torch.inf)
    elif torch.compiler.is_compiling():
        values, _ = _ctc(scores, labels, step_lengths, label_lengths, blank, zero_infinity)
    else:
        values = F.ctc_loss(
            scores, labels, step_lengths, label_lengths, blank=blank, reduction="none", zero_infinity=zero_infinity
        )
    if reduction == "mean":
        values = values / label_lengths.clamp_min(1)
    return reduce(values, reduction, normalizer=normalizer)


@register_loss("ctc", [SEQUENCE, TEXT, AUDIO], schema=CtcLossConfig)
class CtcLoss(AdditiveLoss):
    r"""Adds up the probability of all ways in which labels can lie along more steps; for speech and handwriting.

    With the alignments $a$ that give the labels $y$ when repeats are merged and blanks dropped:
    $L = -\log \sum_a \prod_t p_t(a_t)$. The mean divides each sample's loss by the number of its labels, at least 1,
    and then averages over the batch, as torch does. A row without labels costs $-\sum_t \log p_t(\mathrm{blank})$. Two
    equal labels in a row need a blank between them, so that labels and repeats together must not exceed the steps.

    Shapes: logits `(batch, steps, classes)`, the blank among the classes; targets `(batch, labels)`, where
    `padding_index` fills rows up. Optional: `input_lengths` and `target_lengths`, `(batch,)`. A scalar, or `(batch,)`
    unreduced, and then not divided by the number of labels.
    Dtypes: logits any floating-point, computed in float32 at least; labels and lengths any integer.
    Source: Graves et al., "Connectionist Temporal Classification", 2006; `torch.nn.CTCLoss`, whose values it has. The
    gradient with respect to log-probabilities, where `from_logits` is false, is torch's: right behind a log-softmax.
    There is no second derivative.

    >>> CtcLoss()(torch.zeros(1, 2, 3), torch.tensor([[1]]))  # of nine paths, three give the label 1
    tensor(1.0986)
    """

    def __init__(
        self,
        *,
        blank: int = 0,
        zero_infinity: bool = True,
        from_logits: bool = True,
        layout: str = "batch_first",
        padding_index: int | None = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity
        self.from_logits = from_logits
        self.layout = layout
        self.padding_index = padding_index
        self.sample_axis = 0 if layout == "batch_first" else 1
        self.harmless_target = (blank == 0) * 1 if padding_index is None else padding_index

    @classmethod
    def get_optional_loss_inputs(cls) -> tuple[str, ...]:
        return ("input_lengths",)

    @classmethod
    def get_optional_loss_targets(cls) -> tuple[str, ...]:
        return ("target_lengths",)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        *,
        input_lengths: Tensor | None = None,
        target_lengths: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        return ctc_loss(
            logits,
            targets,
            input_lengths=input_lengths,
            target_lengths=target_lengths,
            **self.settings(),
            normalizer=normalizer,
        )

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each sample, whatever its length."""
        return ones(targets[0].shape[:1], targets[0])

    def item_values(self, *arguments: Any, **optional: Any) -> Tensor:
        """The value of each sample, which for the mean is divided by its length."""
        values = super().item_values(*arguments, **optional)
        if self.reduction != "mean":
            return values
        lengths = optional.get("target_lengths")
        if lengths is None:
            _, lengths = _without_padding(arguments[1].long(), self.padding_index)
        return values / lengths.to(values.device).clamp_min(1)

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """As many steps as samples, so that either may come first; one row's labels do not fit into its steps."""
        rows = torch.tensor([[1, 2, 1, 2], [1, 1, 1, 1], [2, 2, 1, 2], [2, 1, 2, 1], [1, 2, 2, 2], [1, 1, 2, 1]])
        # The feature's number of classes may be that of the labels alone.
        num_classes = max(sizes.classes, sizes.blank + 1, 2)
        labels = [label for label in range(num_classes) if label != sizes.blank]
        # Where there is one label, repeats would leave no row that fits.
        ids = torch.tensor(labels[:2])[rows - 1] if len(labels) > 1 else torch.full((6, 3), labels[0])
        return (torch.randn(6, 6, num_classes, generator=generator),), (ids,)


def _require_shapes(logits: Tensor, targets: Tensor, layout: str) -> None:
    require_tensor(targets, "targets")
    axes = "(batch, steps, classes)" if layout == "batch_first" else "(steps, batch, classes)"
    if logits.ndim != 3:
        raise ValueError(f"logits {tuple(logits.shape)} must have the shape {axes}")
    if targets.is_floating_point() or targets.is_complex():
        dtype = str(targets.dtype).removeprefix("torch.")
        raise TypeError(f"targets are {dtype}, but labels must be integers; use targets.long()")
    num_samples = logits.shape[0 if layout == "batch_first" else 1]
    if targets.ndim != 2 or targets.shape[0] != num_samples:
        cure = f"targets must be ({num_samples}, labels)"
        if targets.ndim == 1:
            cure += ", a row per sample and not one after the other"
        elif layout == "batch_first" and targets.shape[:1] == logits.shape[1:2]:
            cure += "; if the steps come first, set layout='time_first'"
        raise ValueError(f"logits {tuple(logits.shape)} {axes} and targets {tuple(targets.shape)} do not fit: {cure}")


def _lengths(lengths: Tensor, name: str, labels: Tensor) -> Tensor:
    require_tensor(lengths, name)
    if lengths.shape != labels.shape[:1]:
        raise ValueError(
            f"{name} {tuple(lengths.shape)} and targets {tuple(labels.shape)} do not fit: {name} must be "
            f"({len(labels)},), one for each sample"
        )
    if lengths.is_floating_point() or lengths.dtype == torch.bool:
        dtype = str(lengths.dtype).removeprefix("torch.")
        raise TypeError(f"{name} are {dtype}, but must be integers; use {name}.long(), or count a mask: mask.sum(1)")
    return lengths.long()


def _require_lengths(lengths: Tensor, name: str, most: int, of_what: str) -> None:
    def message() -> str:
        wrong = lengths[(lengths < 0) | (lengths > most)][0].item()
        return f"{name} hold {wrong}, but must lie between 0 and {most} for {of_what}"

    checking.require(((lengths >= 0) & (lengths <= most)).all(), message, f"{name} hold a length out of range")


def _without_padding(labels: Tensor, padding_index: int | None) -> tuple[Tensor, Tensor]:
    """The labels of each row at its start, and how many they are."""
    if padding_index is None:
        return labels, torch.full(labels.shape[:1], labels.shape[1], device=labels.device)
    is_padding = labels == padding_index
    order = is_padding.to(torch.int8).sort(dim=1, stable=True).indices
    return labels.gather(1, order), (~is_padding).sum(1)


def _checked_labels(labels: Tensor, lengths: Tensor, num_classes: int, blank: int) -> Tensor:
    """The labels, and behind each row's length another one that torch never reads."""
    inside = torch.arange(labels.shape[1], device=labels.device) < lengths.unsqueeze(1)
    wrong = inside & ((labels < 0) | (labels >= num_classes) | (labels == blank))

    def message() -> str:
        label = labels[wrong][0].item()
        if label == blank:
            return f"targets hold {label}, which is the blank; labels must be other classes than that"
        found = f"targets {tuple(labels.shape)} hold the label {label}"
        return f"{found}, but the logits have {num_classes} classes: 0 to {num_classes - 1}"

    checking.require(~wrong.any(), message, "targets hold the blank, or a label that is out of range")
    labels = labels.masked_fill(~inside, 0)
    # A compiled kernel that meets a label out of range reads foreign memory before the assertion can speak.
    return labels.clamp(0, num_classes - 1) if torch.compiler.is_compiling() else labels


# The shape of what torch's operator saves for its gradient depends on the lengths, which a compiler cannot know. This
# one computes the gradient at once, of the shape of its input.
@torch.library.custom_op(
    "losskit::ctc",
    mutates_args=(),
    # Written out, since older versions of torch cannot read it from annotations that are strings.
    schema="(Tensor scores, Tensor labels, Tensor step_lengths, Tensor label_lengths, int blank, bool zero_infinity) "
    "-> (Tensor, Tensor)",
)
def _ctc(
    scores: Tensor, labels: Tensor, step_lengths: Tensor, label_lengths: Tensor, blank: int, zero_infinity: bool
) -> tuple[Tensor, Tensor]:
    """Each sample's loss, and its gradient with respect to the scores of that sample."""
    given = (labels, step_lengths, label_lengths)
    values, saved = torch.ops.aten._ctc_loss.Tensor(scores, *given, blank, zero_infinity)
    ones = torch.ones_like(values)
    gradient = torch.ops.aten._ctc_loss_backward.Tensor(ones, scores, *given, values, saved, blank, zero_infinity)
    if zero_infinity:
        values = values.masked_fill(values == torch.inf, 0.0)
    # An operator must not return what was given to it, nor a view of it.
    return values.clone(), gradient.contiguous()


@_ctc.register_fake
def _(
    scores: Tensor, labels: Tensor, step_lengths: Tensor, label_lengths: Tensor, blank: int, zero_infinity: bool
) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape[1]), scores.new_empty(scores.shape)


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _backward(
    ctx: torch.autograd.function.BackwardCFunction, of_values: Tensor, of_gradient: Tensor
) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    return gradient * of_values.unsqueeze(-1), None, None, None, None, None


_ctc.register_autograd(_backward, setup_context=_save)
