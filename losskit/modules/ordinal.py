"""Losses for classes that have an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.constants import CATEGORY
from losskit.modules import checking, fused
from losskit.modules.base import AdditiveLoss
from losskit.modules.fused import Block, Kernel, Workspace, kernel_of_blocks
from losskit.modules.fused_elements import softplus_
from losskit.modules.reduction import masked, reduce
from losskit.modules.shapes import floating, require_floating, require_integers, require_tensor
from losskit.registry import register_loss
from losskit.schema.ordinal import CornLossConfig


def corn_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    num_classes: int | None = None,
    reduction: str = "mean",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """See `CornLoss`."""
    logits, ids = _thresholds(logits, targets, num_classes)
    count = (ids + 1).clamp_max(logits.shape[1]).sum()

    def plain(logits: Tensor) -> Tensor:
        logits = floating(logits, "logits")
        ranks = torch.arange(logits.shape[1], device=logits.device)
        above = ids.unsqueeze(1) > ranks
        reached = ids.unsqueeze(1) >= ranks
        values = masked(-F.logsigmoid(torch.where(above, logits, -logits)), reached)
        return reduce(values, reduction, count=count, normalizer=normalizer)

    # The kernel looks signs up in a table of the classes' number squared, which must not be what takes the memory.
    if not fused.can_fuse(logits) or logits.shape[1] ** 2 > logits.numel() // 16:
        return plain(logits)
    return fused.reduced(
        _kernel(logits, ids), plain, [logits], reduction, count=count, normalizer=normalizer, constants=[ids]
    )


def _kernel(logits: Tensor, ids: Tensor) -> Kernel:
    r"""The kernel of the sum over all questions that arise of $\log(1 + e^{s z})$.

    The sign $s$ is -1 where the class lies higher, 1 where it is reached and no higher, and 0 where the question does
    not arise. With $w = \sigma(s z)$ the derivative is $s\,w$.
    """
    num_questions, dtype = logits.shape[1], torch.promote_types(logits.dtype, torch.float32)
    # A row for each class: to look signs up is faster than to compare ids.
    signs_of = torch.eye(num_questions + 1, num_questions, dtype=dtype, device=logits.device)
    signs_of -= torch.ones_like(signs_of).tril_(-1)

    def of_block(block: Block, factor: float | None, room: Workspace) -> float:
        given, block_ids, buffer = block.tensor(0), block.item(0), block.buffer(1, room)
        assert block_ids is not None
        rows = room("rows", (block_ids.numel(), num_questions))
        torch.index_select(signs_of, 0, block_ids.flatten(), out=rows)
        signs = rows.view(*block_ids.shape, num_questions).movedim(-1, 1)
        turned = torch.mul(given, signs, out=room("turned", block.shape))
        wrong, tails = torch.sigmoid(turned, out=buffer), room("tails", block.shape)
        costs = softplus_(turned, wrong, tails)
        total = costs.mul_(torch.mul(signs, signs, out=tails)).sum().item()
        if factor is not None:
            block.store(1, wrong.mul_(signs).mul_(factor))
        return total

    return kernel_of_blocks(of_block, (), [ids], 1, num_rooms=3)


@register_loss("corn", [CATEGORY], schema=CornLossConfig)
class CornLoss(AdditiveLoss):
    r"""For classes with an order, such as grades: one yes-or-no question per step, whether the class lies higher still.

    With ids $y$ from 0 to $K - 1$ and the logit $z_k$ of $P(y > k \mid y \ge k)$: $L_k = -\log \sigma(z_k)$ where
    $y > k$, and $-\log \sigma(-z_k)$ where $y = k$. Where $y < k$, the question does not arise. The mean is over all
    questions that do. Of $K$ logits per item, as classifiers give them, the last is not used if `num_classes` says
    that there are $K$ classes.

    Shapes: logits `(batch, K - 1)`, or `(batch, K)` with `num_classes`; targets `(batch,)` ids; a scalar, or
    `(batch, K - 1)` unreduced. Dtypes: logits any floating-point, computed in float32 at least; ids any integer.
    Source: Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based on Conditional
    Probabilities", 2021.

    >>> CornLoss()(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))
    tensor(0.4100)
    """

    takes_ids = takes_ids_alone = True

    def __init__(self, *, num_classes: int | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.num_classes = num_classes

    def forward(self, logits: Tensor, targets: Tensor, *, normalizer: Tensor | float | None = None) -> Tensor:
        return corn_loss(logits, targets, **self.settings(), normalizer=normalizer)

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """The number of questions that arise for each item.

        Raises:
            TypeError: `num_classes` is not set, and the targets do not say how many questions there are.
        """
        if self.num_classes is not None:
            num_questions = self.num_classes - 1
        elif inputs:
            num_questions = inputs[0].shape[1]
        else:
            raise TypeError("the targets do not say how many classes corn has; set num_classes")
        return (targets[0].long() + 1).clamp_max(num_questions)


def _thresholds(logits: Tensor, targets: Tensor, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """The logit of each step between two classes, and the ids."""
    require_floating(logits, "logits")
    require_tensor(targets, "targets")
    shapes = f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)}"
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        cure = "; drop the targets' last axis: targets.squeeze(-1)" if targets.shape == (*logits.shape[:1], 1) else ""
        raise ValueError(f"{shapes} do not fit: they must be (batch, classes - 1) and (batch,){cure}")
    require_integers(targets)
    if num_classes is None:
        num_classes = logits.shape[1] + 1
    if logits.shape[1] not in (num_classes - 1, num_classes):
        raise ValueError(
            f"{shapes} do not fit {num_classes} classes: the logits must have {num_classes - 1} columns, one per step "
            f"between two classes, or {num_classes}, of which the last is not used"
        )
    ids = targets.long()
    if ids.numel():
        message = f"targets hold a class id outside 0 to {num_classes - 1}"
        checking.require_each((ids >= 0) & (ids < num_classes), ids, message, f"; {shapes} have {num_classes} classes")
    return logits[:, : num_classes - 1], ids
