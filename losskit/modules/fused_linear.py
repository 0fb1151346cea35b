r"""The kernel of losses of the logits of a linear layer, which has the logits of some items at a time.

With the logits $z = h W^T + b$ of hidden states $h$, a loss that is a sum over items, and
$d = \partial L / \partial z$,

$\partial L / \partial h = d\,W$, $\partial L / \partial W = d^T h$ and $\partial L / \partial b_c = \sum_i d_{ic}$.

The kernel of the loss turns the logits of some items into $d$, in their place. So there are the three matrix products
that there must be, and little memory beside the gradients, the largest of which is added up where it will stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from losskit.modules import fused
from losskit.modules.fused import Gradients, Kernel

# The logits of a block are a part of the gradients, but fill a cache, and are of as many items as matrix products need
# to be efficient.
LARGEST_PART, LEAST_ITEMS, MOST_ITEMS = 1 / 5, 64, 1024


def kernel_of_linear(kernel_of_items: Callable[[Tensor, slice], Kernel]) -> Kernel:
    """The kernel of hidden states, the weight of a layer, and perhaps its bias, all of one dtype.

    Args:
        kernel_of_items: from the logits `(items, classes)` of some items, and which these are, the kernel of their
            loss, which puts the gradient in the place of the logits.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        hidden, weight = tensors[:2]
        biases = tensors[2:]
        items = hidden.reshape(-1, weight.shape[1])
        of_hidden, of_weight, *of_bias = (
            torch.zeros_like(x, memory_format=torch.contiguous_format)
            if x.requires_grad and factor is not None
            else None
            for x in tensors
        )
        rows_of_gradient = None if of_hidden is None else of_hidden.view(items.shape)
        step = min(_items_at_once(items, weight), len(items))
        buffer = items.new_empty(step, len(weight))
        total = 0.0
        for start in range(0, len(items), step):
            some = slice(start, start + step)
            logits = torch.mm(items[some], weight.T, out=buffer[: len(items[some])])
            for bias in biases:
                logits.add_(bias)
            value, _ = kernel_of_items(logits, some)([logits], factor)
            total += value
            if rows_of_gradient is not None:
                torch.mm(logits, weight, out=rows_of_gradient[some])
            if of_weight is not None:
                of_weight.addmm_(logits.T, items[some])
            for gradient in of_bias:
                if gradient is not None:
                    gradient.add_(logits.sum(0))
        return total, [of_hidden, of_weight, *of_bias]

    return kernel


def _items_at_once(items: Tensor, weight: Tensor) -> int:
    part = int(LARGEST_PART * (items.numel() + weight.numel()) / len(weight))
    return max(LEAST_ITEMS, fused.LARGEST_BLOCK // len(weight), min(MOST_ITEMS, part))
