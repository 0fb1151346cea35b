"""Losses that hold the model's output layer, so that it and the loss can be computed together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losskit.constants import CATEGORY, SEQUENCE, TEXT
from losskit.modules import checking, fused
from losskit.modules.base import AdditiveLoss
from losskit.modules.batches import USUAL, Example, Sizes
from losskit.modules.class_ids import counts_of_ids
from losskit.modules.classification import cross_entropy_of_ids, softmax_cross_entropy_loss, weights_of_items
from losskit.modules.fused import Kernel
from losskit.modules.fused_linear import kernel_of_linear
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import (
    Classes,
    class_constant,
    floating,
    read_classes,
    require_integers,
    require_tensor,
    without_autocast,
)
from losskit.registry import register_loss
from losskit.schema.heads import AdaptiveLogSoftmaxLossConfig, LinearCrossEntropyLossConfig


def linear_cross_entropy_loss(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `LinearCrossEntropyLoss`; `weight` is `(classes, in_features)` and `bias` `(classes,)`."""
    hidden = floating(hidden, "hidden")
    if weight.ndim != 2 or hidden.ndim == 0 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} do not fit: hidden must be "
            "(batch, ..., in_features), and weight (classes, in_features)"
        )
    if isinstance(targets, Tensor) and targets.shape not in (hidden.shape[:-1], (*hidden.shape[:-1], len(weight))):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)} do not fit: class ids must have the "
            f"shape {tuple(hidden.shape[:-1])}, and probabilities {(*hidden.shape[:-1], len(weight))}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"bias {tuple(bias.shape)} and weight {tuple(weight.shape)} do not fit: bias must be (classes,)"
        )

    def plain(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return softmax_cross_entropy_loss(
            _linear(hidden, weight, bias),
            targets,
            class_weights=class_weights,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            class_axis=-1,
            reduction=reduction,
            normalizer=normalizer,
        )

    layer = [weight] if bias is None else [weight, bias]
    size = math.prod(hidden.shape[:-1]) * len(weight)
    are_ids = isinstance(targets, Tensor) and not targets.is_floating_point()
    if not are_ids or not fused.can_fuse(hidden, *layer, targets, times_least_size=4, size=size):
        return plain(hidden, *layer)
    # Of logits, all that is read beside the targets is their shape.
    given = read_classes(
        hidden.new_empty(()).expand(*targets.shape, len(weight)), targets, axis=-1, ignore_index=ignore_index
    )
    weights = class_constant(class_weights, "class_weights", given.logits, given.axis)
    item_weights = weights_of_items(given, weights)
    ids, valid = given.targets.reshape(-1), None if given.valid is None else given.valid.reshape(-1)

    def kernel_of_items(logits: Tensor, some: slice) -> Kernel:
        part = Classes(logits, ids[some], 1, True, None if valid is None else valid[some])
        return cross_entropy_of_ids(part, weights, label_smoothing, in_place=True)

    return fused.reduced(
        kernel_of_linear(kernel_of_items),
        plain,
        [hidden, *(x.to(hidden.dtype) for x in layer)],
        reduction,
        count=given.num_items() if item_weights is None else item_weights.sum(),
        normalizer=normalizer,
        constants=[targets, weights],
        times_least_size=4,
        size=size,
    )


@register_loss("linear_cross_entropy", [CATEGORY, SEQUENCE, TEXT], schema=LinearCrossEntropyLossConfig)
class LinearCrossEntropyLoss(AdditiveLoss):
    r"""Cross-entropy of an output layer that belongs to the loss, or that is tied to another layer of the model.

    With the hidden state $h$ and the layer's $W$ and $b$: $L = -\log \mathrm{softmax}(W h + b)_y$, with weights and
    smoothing as in `SoftmaxCrossEntropyLoss`. The layer is `linear`, of `in_features` and `num_classes`; its parameters
    must be given to the optimizer. Without these sizes, the loss takes the model's own layer: the predictions hold its
    `weight` and `bias`, perhaps under other names, `inputs: {weight: decoder.weight}`; in Python these are keywords.

    Shapes: hidden `(batch, ..., in_features)`; targets `(batch, ...)` ids, or `(batch, ..., classes)` probabilities.
    Optional: `weight` `(classes, in_features)` and `bias` `(classes,)`. A scalar, or `(batch, ...)` unreduced.
    Dtypes: hidden any floating-point, computed in float32 at least; ids any integer.
    Source: `torch.nn.LinearCrossEntropyLoss`, whose values, initialisation and names of parameters it has; its
    `out_features` and `options` are left out.

    >>> loss = LinearCrossEntropyLoss(in_features=2, num_classes=3)
    >>> loss(torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))  # log 3
    tensor(1.0986, grad_fn=<NllLossBackward0>)
    """

    class_weights: Tensor | None

    takes_ids = takes_ids_alone = True

    def __init__(
        self,
        *,
        in_features: int | None = None,
        num_classes: int | None = None,
        bias: bool = False,
        class_weights: Sequence[float] | None = None,
        ignore_index: int | None = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.in_features = in_features
        self.num_classes = num_classes
        self.bias = bias
        self.set_constant("class_weights", class_weights)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear: nn.Linear | None = None
        if in_features is not None and num_classes is not None:
            self.linear = nn.Linear(in_features, num_classes, bias=bias)
        elif in_features is not None or num_classes is not None or bias:
            raise ValueError(
                "a layer of its own needs both in_features and num_classes; for a tied one, leave them out"
            )

    @classmethod
    def get_loss_inputs(cls) -> str:
        return "hidden"

    @classmethod
    def get_optional_loss_inputs(cls) -> tuple[str, ...]:
        return "weight", "bias"

    def forward(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        if self.linear is not None:
            if weight is not None or bias is not None:
                raise ValueError("the loss has a layer of its own: leave out weight and bias, or its sizes")
            weight, bias = self.linear.weight, self.linear.bias
        elif weight is None:
            raise ValueError("the loss has no layer of its own: give weight=, or in_features and num_classes")
        return linear_cross_entropy_loss(
            hidden,
            targets,
            weight,
            bias,
            class_weights=self.class_weights,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            normalizer=normalizer,
        )

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1, or with class weights that of its label, for each item that is not ignored."""
        return counts_of_ids(targets[0], self.ignore_index, -1, self.class_weights)

    @staticmethod
    def example_batch(feature_type: str, generator: torch.Generator, sizes: Sizes = USUAL) -> Example:
        """Hidden states and class ids, in steps for sequences and text."""
        shape = (sizes.samples,) if feature_type == CATEGORY else (sizes.samples, 4)
        hidden = torch.randn(*shape, sizes.dimensions, generator=generator)
        return (hidden,), (torch.randint(sizes.classes, shape, generator=generator),)


def adaptive_log_softmax_loss(
    hidden: Tensor,
    targets: Tensor,
    head_weight: Tensor,
    tail_weights: Sequence[tuple[Tensor, Tensor]],
    head_bias: Tensor | None = None,
    *,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `AdaptiveLogSoftmaxLoss`.

    Args:
        hidden: hidden states, `(batch, ..., in_features)`.
        targets: class ids, `(batch, ...)`.
        head_weight: of the frequent classes and then of the clusters, `(frequent + clusters, in_features)`.
        tail_weights: for each cluster two layers, `(size, in_features)` and `(classes, size)`.
        head_bias: `(frequent + clusters,)`.
        ignore_index: the id of items that do not count.
        reduction: `mean`, `sum` or `none`.
        normalizer: what the mean divides by.
    """
    hidden = floating(hidden, "hidden")
    num_frequent = len(head_weight) - len(tail_weights)
    cutoffs = [num_frequent]
    for _, outer in tail_weights:
        cutoffs.append(cutoffs[-1] + len(outer))
    ids, valid = _ids(hidden, targets, head_weight, cutoffs[-1], ignore_index)
    rows = hidden.reshape(-1, hidden.shape[-1])
    clusters = [(ids >= low) & (ids < high) for low, high in pairwise(cutoffs)]
    places = ids
    for index, is_inside in enumerate(clusters):
        places = places.masked_fill(is_inside, num_frequent + index)
    values = F.cross_entropy(_linear(rows, head_weight, head_bias), places, reduction="none")
    # How many rows a cluster has is known only to eager code; to compute all of them gives the same.
    whole = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    for low, is_inside, (inner, outer) in zip(cutoffs, clusters, tail_weights, strict=False):
        if whole:
            scores = _linear(_linear(rows, inner), outer)
            inside = F.cross_entropy(scores, (ids - low).clamp(0, len(outer) - 1), reduction="none")
            values = values + masked(inside, is_inside)
        else:
            chosen = is_inside.nonzero().squeeze(1)
            scores = _linear(_linear(rows.index_select(0, chosen), inner), outer)
            inside = F.cross_entropy(scores, ids.index_select(0, chosen) - low, reduction="none")
            values = values.index_add(0, chosen, inside)
    values = masked(values.reshape(targets.shape), valid)
    return reduce(values, reduction, count=None if valid is None else valid.sum(), normalizer=normalizer)


@register_loss(
    "adaptive_log_softmax",
    [CATEGORY, SEQUENCE, TEXT],
    schema=AdaptiveLogSoftmaxLossConfig,
    aliases=["adaptive_log_softmax_with_loss"],
)
class AdaptiveLogSoftmaxLoss(AdditiveLoss):
    r"""Cross-entropy over very many classes, of which rare ones share logits, so that a step costs little.

    The head has a logit for each frequent class and one for each cluster $k$ of rare ones, a cluster's small layers one
    for each of its classes: $L = -\log p(y)$ for a frequent class $y$, and $L = -\log p(k) - \log p(y \mid k)$ for one
    in cluster $k$. Ids must be ordered from frequent to rare. The layers are `head` and `tail`; their parameters must
    be given to the optimizer.

    Shapes: hidden `(batch, ..., in_features)`, targets `(batch, ...)` ids; a scalar, or `(batch, ...)` unreduced.
    Dtypes: hidden any floating-point, computed in float32 at least; ids any integer.
    Source: Grave et al., "Efficient softmax approximation for GPUs", 2017; `torch.nn.AdaptiveLogSoftmaxWithLoss`,
    whose values, initialisation and names of parameters it has.

    >>> loss = AdaptiveLogSoftmaxLoss(in_features=8, num_classes=10, cutoffs=[3])
    >>> loss(torch.zeros(1, 8), torch.tensor([0]))  # one of three classes and a cluster: log 4
    tensor(1.3863, grad_fn=<DivBackward0>)
    """

    takes_ids = takes_ids_alone = True

    def __init__(
        self,
        *,
        in_features: int | None = None,
        num_classes: int | None = None,
        cutoffs: Sequence[int] | None = None,
        div_value: float = 4.0,
        head_bias: bool = False,
        ignore_index: int | None = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        if in_features is None or num_classes is None or not cutoffs:
            raise ValueError("adaptive_log_softmax needs in_features, num_classes and cutoffs")
        bounds = [*cutoffs, num_classes]
        if cutoffs[0] < 1 or any(low >= high for low, high in pairwise(bounds)):
            raise ValueError(f"cutoffs must grow from 1 at least to {num_classes - 1} at most, got {list(cutoffs)}")
        sizes = [int(in_features // div_value ** (i + 1)) for i in range(len(cutoffs))]
        if min(sizes) < 1:
            raise ValueError(
                f"a div_value of {div_value:g} leaves nothing of {in_features} features in the last cluster"
            )
        self.in_features = in_features
        self.num_classes = num_classes
        self.cutoffs = cutoffs
        self.div_value = div_value
        self.head_bias = head_bias
        self.ignore_index = ignore_index
        self.head = nn.Linear(in_features, cutoffs[0] + len(cutoffs), bias=head_bias)
        self.tail = nn.ModuleList(
            nn.Sequential(nn.Linear(in_features, size, bias=False), nn.Linear(size, high - low, bias=False))
            for size, (low, high) in zip(sizes, pairwise(bounds), strict=True)
        )

    @classmethod
    def get_loss_inputs(cls) -> str:
        return "hidden"

    def forward(self, hidden: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        tail_weights = [(self._weight(index, 0), self._weight(index, 1)) for index in range(len(self.tail))]
        return adaptive_log_softmax_loss(
            hidden,
            targets,
            self.head.weight,
            tail_weights,
            self.head.bias,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            normalizer=normalizer,
        )

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each item that is not ignored."""
        return counts_of_ids(targets[0], self.ignore_index, -1)

    def _weight(self, cluster: int, layer: int) -> Tensor:
        weight: Tensor = self.tail[cluster][layer].weight  # type: ignore[index]
        return weight

    example_batch = staticmethod(LinearCrossEntropyLoss.example_batch)


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The layer's result in the dtype of `rows`, whatever autocast asks for."""
    with without_autocast(rows):
        return F.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype))


def _ids(
    hidden: Tensor, targets: Tensor, head_weight: Tensor, num_classes: int, ignore_index: int | None
) -> tuple[Tensor, Tensor | None]:
    """The ids of all items in a row, 0 where they are ignored, and which are not."""
    if hidden.ndim == 0 or hidden.shape[-1] != head_weight.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and the head's weight {tuple(head_weight.shape)} do not fit: hidden must be "
            f"(batch, ..., {head_weight.shape[1]})"
        )
    require_tensor(targets, "targets")
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and targets {tuple(targets.shape)} do not fit: class ids must have the "
            f"shape {tuple(hidden.shape[:-1])}"
        )
    require_integers(targets)
    ids = targets.long()
    valid = None if ignore_index is None else ids != ignore_index
    ids = (ids if valid is None else ids.masked_fill(~valid, 0)).reshape(-1)

    def message() -> str:
        where = checking.first(((ids < 0) | (ids >= num_classes)).reshape(targets.shape))
        text = f"targets hold the class id {targets[where].item()} at index {where}"
        return f"{text}, but there are {num_classes} classes: 0 to {num_classes - 1}"

    checking.require(((ids >= 0) & (ids < num_classes)).all(), message, "targets hold a class id that is out of range")
    # A compiled kernel that meets an id out of range ends the process before the assertion can speak.
    return ids.clamp(0, num_classes - 1) if torch.compiler.is_compiling() else ids, valid
