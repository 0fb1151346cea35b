"""The kernel of losses of the softmax: cross-entropy and its relatives, of class ids or of probabilities of classes.

With $p = \\mathrm{softmax}(z)$ and the label $y$ of an item, such a loss is $\\phi(\\log p_y) - u \\sum_c w_c \\log p_c$: a
cost of the label's probability, and a part that smoothed labels spread over all classes. As $\\partial \\log p_k /
\\partial z_c = [c = k] - p_c$,

$\\partial L / \\partial z_c = \\phi' \\cdot ([c = y] - p_c) + u\\,(W p_c - w_c)$ with $W = \\sum_c w_c$:

the softmax times one number per item, less numbers per class, and something at the label. So the softmax is written
into the gradient's own memory and scaled there. $\\phi'$ comes from autograd, over one number per item.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from losskit.modules.fused import Block, Gradients, Kernel, blocks
from losskit.modules.shapes import along

# From log p of the labels, and the ids, to the costs; what is computed is differentiated.
Costs = Callable[[Tensor, Tensor], Tensor]


def kernel_of_ids(
    ids: Tensor,
    valid: Tensor | None,
    axis: int,
    costs: Costs,
    *,
    spread: float = 0.0,
    weights: Tensor | None = None,
) -> Kernel:
    """The kernel of the sum of $\\phi(\\log p_y) - u \\sum_c w_c \\log p_c$ over all items that count.

    Args:
        ids: $y$, shaped like the logits without the class axis, all of them classes.
        valid: which items count; None for all.
        axis: the class axis.
        costs: $\\phi$, which also gets the ids.
        spread: $u$.
        weights: $w$, one per class; None for ones.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        (logits,) = tensors
        gradient = None if factor is None else torch.empty_like(logits)
        total = 0.0
        of_all = logits.shape[axis] if weights is None else weights.sum().item()
        for block in blocks([logits, gradient], [ids, valid], axis):
            block_ids, counts = block.item(0), block.item(1)
            assert block_ids is not None
            softmax = _Softmax(block)
            shifted = softmax.shifted_sums(weights) if spread else None
            softmax.normalize()
            values, slopes = _with_slopes(costs, softmax.log_p(block_ids), block_ids)
            if shifted is not None:
                values = values + spread * (of_all * softmax.log_sums - shifted)
            if counts is not None:
                values, slopes = (torch.where(counts, x, 0) for x in (values, slopes))
            total += values.sum().item()
            if factor is not None:
                slopes = slopes * factor
                shares = torch.full_like(slopes, spread * factor) if counts is None else spread * factor * counts
                scaled = softmax.buffer.mul_((shares * of_all - slopes).unsqueeze(1))
                if spread:
                    taken = shares.unsqueeze(1)
                    scaled.sub_(taken if weights is None else taken * along(weights, 1, scaled.ndim))
                scaled.scatter_add_(1, block_ids.unsqueeze(1), slopes.unsqueeze(1))
                block.store(1, scaled)
        return total, [gradient]

    return kernel


def kernel_of_labels(
    labels: Tensor, axis: int, *, smoothing: float = 0.0, weights: Tensor | None = None, totals: Tensor | None = None
) -> Kernel:
    """The kernel of the sum of $-\\sum_c w_c y_c \\log p_c$ over all items.

    With numbers in place of a single label, $\\partial L / \\partial z_c = (\\sum_k w_k y_k)\\, p_c - w_c y_c$.

    Args:
        labels: $y$, shaped like the logits; of any floating-point dtype.
        axis: the class axis.
        smoothing: $\\varepsilon$, which makes the labels $(1 - \\varepsilon) y + \\varepsilon / C$.
        weights: $w$, one per class; None for ones.
        totals: what the labels of each item are divided by.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        (logits,) = tensors
        gradient = None if factor is None else torch.empty_like(logits)
        total = 0.0
        for block in blocks([logits, gradient, labels], [totals], axis):
            softmax = _Softmax(block)
            shares = block.tensor(2, softmax.dtype)
            of_items = block.item(0)
            if of_items is not None:
                shares = shares / of_items.unsqueeze(1)
            if smoothing:
                shares = (1 - smoothing) * shares + smoothing / block.shape[1]
            if weights is not None:
                shares = shares * along(weights, 1, shares.ndim)
            sums = shares.sum(1)
            crossed = softmax.shifted().mul_(shares).sum(1)
            softmax.normalize()
            total += (sums * softmax.log_sums - crossed).sum().item()
            if factor is not None:
                scaled = softmax.buffer.mul_((sums * factor).unsqueeze(1)).sub_(shares, alpha=factor)
                block.store(1, scaled)
        return total, [gradient]

    return kernel


class _Softmax:
    """The softmax of a block, in the place where its gradient will be."""

    def __init__(self, block: Block) -> None:
        self.dtype = torch.float64 if block.tensor(0).dtype == torch.float64 else torch.float32
        self.logits = block.tensor(0, self.dtype)
        self.buffer = block.buffer(1, self.dtype)
        self.highest = self.logits.amax(1, keepdim=True)

    def shifted(self) -> Tensor:
        """The logits relative to the highest, in the buffer; sums of them keep digits that those of logits lose."""
        return torch.sub(self.logits, self.highest, out=self.buffer)

    def shifted_sums(self, weights: Tensor | None) -> Tensor:
        """The sum over all classes of the logits relative to the highest, times their weights."""
        shifted = self.shifted()
        return shifted.sum(1) if weights is None else torch.tensordot(shifted, weights, ([1], [0]))

    def normalize(self) -> None:
        """Computes the softmax."""
        self.log_sums = _softmax_into(self.buffer, self.logits)

    def log_p(self, ids: Tensor) -> Tensor:
        """The logarithm of the probability of each label, also where that is too small for a number."""
        own = self.logits.gather(1, ids.unsqueeze(1)) - self.highest
        return own.squeeze(1) - self.log_sums


def softmax_(logits: Tensor) -> tuple[Tensor, Tensor]:
    r"""Turns logits into their softmax along axis 1, in place.

    Returns:
        The highest logits $m$, and $\log \sum_c e^{z_c - m}$.
    """
    highest = logits.amax(1)
    return highest, _softmax_into(logits, logits)


def _softmax_into(buffer: Tensor, logits: Tensor) -> Tensor:
    torch.ops.aten._softmax.out(logits, 1, False, out=buffer)
    # Of the sum over all classes of e^(z - max z), the highest probability is one part.
    return -buffer.amax(1).log()


def _with_slopes(costs: Costs, log_p: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The costs, and their derivatives."""
    with torch.enable_grad():
        log_p = log_p.requires_grad_()
        values = costs(log_p, ids)
        (slopes,) = torch.autograd.grad(values.sum(), log_p)
    return values.detach(), slopes
