r"""The kernel of losses of the softmax: cross-entropy and its relatives, of class ids or of probabilities of classes.

With $p = \mathrm{softmax}(z)$ and the label $y$ of an item, such a loss is $\phi(\log p_y) - u \sum_c w_c \log p_c$: a
cost of the label's probability, and a part that smoothed labels spread over all classes. As
$\partial \log p_k / \partial z_c = [c = k] - p_c$,

$\partial L / \partial z_c = \phi' \cdot ([c = y] - p_c) + u\,(W p_c - w_c)$ with $W = \sum_c w_c$:

the softmax times one number per item, less numbers per class, and something at the label. So the softmax is written
into the gradient's own memory and scaled there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from losskit.modules.fused import Block, Kernel, Workspace, kernel_of_blocks
from losskit.modules.shapes import along

# From how many classes on torch's own softmax is faster than its steps, where the classes lie last.
LONG_ROW = 128
# A probability that is not far from losing digits, as float32 does below 1e-38.
_SMALL = 1e-30

# From log p of the labels, which it may overwrite, and the ids: the costs, and their derivatives.
Costs = Callable[[Tensor, Tensor, Workspace], tuple[Tensor, Tensor]]


def kernel_of_ids(
    ids: Tensor,
    valid: Tensor | None,
    axis: int,
    costs: Costs,
    *,
    spread: float = 0.0,
    weights: Tensor | None = None,
    in_place: bool = False,
) -> Kernel:
    r"""The kernel of the sum of $\phi(\log p_y) - u \sum_c w_c \log p_c$ over all items that count.

    Args:
        ids: $y$, shaped like the logits without the class axis, all of them classes.
        valid: which items count; None for all.
        axis: the class axis.
        costs: gives $\phi$ and $\phi'$.
        spread: $u$.
        weights: $w$, one per class; None for ones.
        in_place: whether the gradient takes the place of the logits.
    """

    sum_of_weights = None if weights is None else weights.sum().item()

    def of_block(block: Block, factor: float | None, room: Workspace) -> float:
        block_ids, counts = block.item(0), block.item(1)
        assert block_ids is not None
        of_all = block.shape[1] if sum_of_weights is None else sum_of_weights
        softmax = Softmax(block, room)
        if in_place:
            softmax.keep(block_ids)
        shifted = softmax.shifted_sums(weights) if spread else None
        softmax.compute()
        values, slopes = costs(softmax.log_p(block_ids), block_ids, room)
        if shifted is not None:
            # W log(sum of e^(z - max z)) - sum of w (z - max z), where z is shifted
            values = values + spread * (of_all * softmax.log_sums() - shifted)
        if counts is not None:
            values, slopes = (torch.where(counts, x, 0) for x in (values, slopes))
        total = values.sum().item()
        if factor is None:
            return total
        slopes = torch.mul(slopes, factor, out=room("slopes", slopes.shape))
        shares = None
        if spread:
            shares = spread * factor * (torch.ones_like(slopes) if counts is None else counts.to(slopes.dtype))
        scaled = softmax.times(-slopes if shares is None else shares * of_all - slopes)
        if shares is not None:
            taken = shares.unsqueeze(1)
            scaled.sub_(taken if weights is None else taken * along(weights, 1, scaled.ndim))
        scaled.scatter_add_(1, block_ids.unsqueeze(1), slopes.unsqueeze(1))
        block.store(1, scaled)
        return total

    # In full precision, everything happens in the gradient's own memory.
    return kernel_of_blocks(of_block, (), [ids, valid], axis, in_place=in_place)


def kernel_of_labels(
    labels: Tensor, axis: int, *, smoothing: float = 0.0, weights: Tensor | None = None, totals: Tensor | None = None
) -> Kernel:
    r"""The kernel of the sum of $-\sum_c w_c y_c \log p_c$ over all items.

    With numbers in place of a single label, $\partial L / \partial z_c = (\sum_k w_k y_k)\, p_c - w_c y_c$.

    Args:
        labels: $y$, shaped like the logits; of any dtype.
        axis: the class axis.
        smoothing: $\varepsilon$, which makes the labels $(1 - \varepsilon) y + \varepsilon / C$.
        weights: $w$, one per class; None for ones.
        totals: what the labels of each item are divided by.
    """

    def of_block(block: Block, factor: float | None, room: Workspace) -> float:
        softmax = Softmax(block, room)
        shares = block.tensor(2)
        of_items = block.item(0)
        if shares.dtype != room.dtype or of_items is not None or smoothing or weights is not None:
            shares = room("shares", shares.shape).copy_(shares)
        if of_items is not None:
            shares.div_(of_items.unsqueeze(1))
        if smoothing:
            shares.mul_(1 - smoothing).add_(smoothing / block.shape[1])
        if weights is not None:
            shares.mul_(along(weights, 1, shares.ndim))
        sums = shares.sum(1)
        crossed = softmax.shifted().mul_(shares).sum(1)
        softmax.compute()
        total = (sums * softmax.log_sums() - crossed).sum().item()
        if factor is not None:
            block.store(1, softmax.times(sums * factor).sub_(shares, alpha=factor))
        return total

    return kernel_of_blocks(of_block, [labels], [totals], axis, num_rooms=1)


class Softmax:
    """The softmax of a block, in the place where its gradient will be."""

    def __init__(self, block: Block, room: Workspace) -> None:
        self._room = room
        self._logits = block.tensor(0, room)
        self._buffer = block.buffer(1, room)
        self._item_shape = (block.shape[0], 1, *block.shape[2:])
        self._highest: Tensor | None = None
        self._own: Tensor | None = None
        # What the buffer must be multiplied by yet.
        self._inverse: Tensor | None = None

    @property
    def highest(self) -> Tensor:
        """The highest logit of each item, `(outer, 1, ...)`."""
        if self._highest is None:
            self._highest = torch.amax(self._logits, 1, keepdim=True, out=self._room("highest", self._item_shape))
        return self._highest

    def shifted(self) -> Tensor:
        """The logits relative to the highest, in the buffer; sums of them keep digits that those of logits lose."""
        shifted = torch.sub(self._logits, self.highest, out=self._buffer)
        if shifted.data_ptr() == self._logits.data_ptr():
            self.highest.zero_()  # the logits are relative to it now
        return shifted

    def keep(self, ids: Tensor) -> None:
        """Before anything else, where the softmax takes the place of the logits: keeps those of the labels."""
        own = torch.gather(self._logits, 1, ids.unsqueeze(1), out=self._room("kept", self._item_shape))
        self._own = own.sub_(self.highest)

    def shifted_sums(self, weights: Tensor | None) -> Tensor:
        """The sum over all classes of the logits relative to the highest, times their weights."""
        shifted = self.shifted()
        return shifted.sum(1) if weights is None else torch.tensordot(shifted, weights, ([1], [0]))

    def compute(self) -> None:
        """Computes the softmax."""
        if self._buffer.ndim == 2 and self._buffer.shape[1] >= LONG_ROW and self._buffer.is_contiguous():
            torch.ops.aten._softmax.out(self._logits, 1, False, out=self._buffer)
            return
        self.shifted().exp_()
        sums = torch.sum(self._buffer, 1, keepdim=True, out=self._room("sums", self._item_shape))
        self._inverse = torch.reciprocal(sums, out=self._room("inverse", self._item_shape))

    def log_sums(self) -> Tensor:
        """The logarithm of the sum over all classes of e^(z - max z), of which the highest probability is one part."""
        if self._inverse is None:
            highest = torch.amax(self._buffer, 1, keepdim=True, out=self._room("sums", self._item_shape))
        else:
            highest = self._inverse
        return highest.log().neg_().squeeze(1)

    def log_p(self, ids: Tensor) -> Tensor:
        """The logarithm of the probability of each label, also where that is too small for a number."""
        own, places = self._room("own", self._item_shape), ids.unsqueeze(1)
        if self._inverse is None:
            chances = torch.gather(self._buffer, 1, places, out=own)
            if chances.amin().item() > _SMALL:
                return chances.log_().squeeze(1)
        own = torch.gather(self._logits, 1, places, out=own).sub_(self.highest) if self._own is None else self._own
        return own.squeeze(1).sub_(self.log_sums())

    def times(self, factors: Tensor) -> Tensor:
        """The softmax times one number per item, in the buffer."""
        factors = factors.unsqueeze(1)
        return self._buffer.mul_(factors if self._inverse is None else factors * self._inverse)


def softmax_(logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Turns logits `(rows, classes)` into their softmax, in place.

    Returns:
        The highest logits $m$, and $\log \sum_c e^{z_c - m}$, each `(rows,)`.
    """
    highest = logits.amax(1)
    torch.ops.aten._softmax.out(logits, 1, False, out=logits)
    # The highest probability is one part of the sum.
    return highest, logits.amax(1).log_().neg_()
