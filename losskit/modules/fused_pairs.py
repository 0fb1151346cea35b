r"""The kernel of losses of the similarities of all pairs of a batch, computed block by block of their matrix.

With rows $u_i$ and $v_j$, vectors or their directions, the similarities are $x_{ij} = u_i \cdot v_j / \tau$, and a loss
is a sum over rows, $L = \sum_i f_i(x_{i1}, x_{i2}, \dots)$. So some rows of $x$ are all that must exist at a time: a cost
turns them into their sum and their derivative $d = \partial L / \partial x$, from which two matrix products make

$\partial L / \partial u_i = \frac{1}{\tau} \sum_j d_{ij} v_j$ and
$\partial L / \partial v_j = \frac{1}{\tau} \sum_i d_{ij} u_i$,

both in one place where $u$ and $v$ are the same. As $\partial x / \partial \tau = -x / \tau$,
$\partial L / \partial \tau = -\frac{1}{\tau} \sum_{ij} d_{ij} x_{ij} = -\frac{1}{\tau} \sum_i u_i \cdot \partial L /
\partial u_i$. What lies before, the division by lengths, is differentiated once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.modules import fused
from losskit.modules.fused import Gradients, Kernel
from losskit.modules.fused_softmax import softmax_
from losskit.modules.similarities import diagonal_mask, lengths, same_ids, through_unit_

# Rows of a block at least, with which matrix products are efficient.
LEAST_ROWS = 32
# Elements of a matrix of similarities that is kept where it is needed twice, rather than computed again.
LARGEST_KEPT = 2**22


class Rows:
    """Some rows of the matrix of similarities, which a cost may overwrite."""

    def __init__(self, block: Tensor, start: int = 0, column_sums: Tensor | None = None) -> None:
        self.block, self.start = block, start
        # For each column of the whole matrix the logarithm of its sum of exponentials, where the cost is of columns.
        self.column_sums = column_sums

    def of(self, tensor: Tensor) -> Tensor:
        """The part of a tensor, with something for each row of the matrix, that belongs to these."""
        return tensor[self.start : self.start + len(self.block)]

    def own(self) -> Tensor:
        """The similarity of each sample to what has its number."""
        return self.block.diagonal(self.start)


# Gives the sum of the rows' values and, if asked, their derivative with respect to each similarity.
Cost = Callable[[Rows, bool], "tuple[float, Tensor | None]"]


def kernel_of_pairs(
    cost: Cost, *, normalize: bool = True, temperature: float = 1.0, of_columns: bool = False
) -> Kernel:
    """The kernel of the sum of a cost over all rows of similarities.

    It takes the vectors, or two of them, and last perhaps a temperature, a tensor without axes.

    Args:
        cost: of some rows.
        normalize: whether similarities are cosines.
        temperature: what similarities are divided by, where the inputs hold none.
        of_columns: whether the cost needs the sums of columns.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        vectors = [tensor for tensor in tensors if tensor.ndim]
        divisor = tensors[-1].item() if len(tensors) > len(vectors) else temperature
        divisors = [lengths(x) for x in vectors] if normalize else []
        sides = [x / length for x, length in zip(vectors, divisors, strict=True)] if normalize else vectors
        one, other = sides[0], sides[-1]
        needs_gradient = factor is not None
        # That of a temperature follows from that of the first.
        needed = [needs_gradient and (x.requires_grad or len(tensors) > len(vectors)) for x in vectors]
        gradients = [torch.zeros_like(x) if is_needed else None for x, is_needed in zip(sides, needed, strict=True)]
        total = 0.0
        for rows, left in _blocks(one, other, divisor, of_columns):
            value, slopes = cost(rows, needs_gradient)
            total += value
            if slopes is not None:
                alpha = (factor or 0.0) / divisor
                if gradients[0] is not None:
                    rows.of(gradients[0]).addmm_(slopes, other, alpha=alpha)
                if gradients[-1] is not None:
                    # To the left, similarities have been divided already.
                    gradients[-1].addmm_(slopes.T, left, alpha=factor or 0.0)
        of_temperature = []
        if len(tensors) > len(vectors):
            of_temperature = [_of_temperature(one, gradients[0], tensors[-1])]
        for gradient, side, length in zip(gradients, sides, divisors, strict=False):
            if gradient is not None:
                through_unit_(gradient, side, length)
        return total, [*gradients, *of_temperature]

    return kernel


def _of_temperature(one: Tensor, gradient: Tensor | None, temperature: Tensor) -> Tensor | None:
    if gradient is None:
        return None
    return -torch.linalg.vecdot(one, gradient).sum() / temperature


def _blocks(one: Tensor, other: Tensor, divisor: float, of_columns: bool) -> Iterator[tuple[Rows, Tensor]]:
    """Rows of the similarities, and those of the first factor, divided, of which they were made."""
    step = max(LEAST_ROWS, fused.SMALLEST_BLOCK // len(other))
    keeps_all = of_columns and len(one) * len(other) <= LARGEST_KEPT
    buffer = one.new_empty(len(one) if keeps_all else min(step, len(one)), len(other))

    def rows_from(start: int, *, is_known: bool = False) -> tuple[Tensor, Tensor]:
        left = one[start : start + step] / divisor
        block = buffer[start : start + step] if keeps_all else buffer[: len(left)]
        return (block if is_known else torch.mm(left, other.T, out=block)), left

    starts = range(0, len(one), step)
    column_sums = _column_sums((rows_from(start)[0] for start in starts), other) if of_columns else None
    for start in starts:
        block, left = rows_from(start, is_known=keeps_all)
        yield Rows(block, start, column_sums), left


def _column_sums(blocks: Iterator[Tensor], other: Tensor) -> Tensor:
    """For each column the logarithm of its sum of exponentials, relative to the highest so far."""
    highest = other.new_full((len(other),), -math.inf)
    sums = other.new_zeros(len(other))
    for block in blocks:
        higher = torch.maximum(highest, block.amax(0))
        sums.mul_((highest - higher).exp_()).add_((block - higher).exp_().sum(0))
        highest = higher
    return sums.log_().add_(highest)


def differentiated(values_of: Callable[[Rows], Tensor]) -> Cost:
    """The cost whose values of rows autograd differentiates, a block at a time."""

    def cost(rows: Rows, needs_gradient: bool) -> tuple[float, Tensor | None]:
        if not needs_gradient:
            return values_of(rows).sum().item(), None
        with torch.enable_grad():
            block = rows.block.detach().requires_grad_()
            total = values_of(Rows(block, rows.start)).sum()
            (slopes,) = torch.autograd.grad(total, block)
        return total.item(), slopes

    return cost


def cross_entropy_of_pairs(partners: Tensor, *, with_selves: bool) -> Cost:
    r"""$-\log p_{ik}$ of each row's partner $k$ in the softmax $p$ of its similarities, so that $d = p - [j = k]$.

    Where the cost is of columns too, it is the mean with that of the softmax of columns.

    Args:
        partners: the number of the column that belongs to each row.
        with_selves: whether a row's similarity to the column of its number counts.
    """

    def cost(rows: Rows, needs_gradient: bool) -> tuple[float, Tensor | None]:
        block, columns = rows.block, rows.of(partners).unsqueeze(1)
        own = block.gather(1, columns).squeeze(1)
        if not with_selves:
            rows.own().fill_(-math.inf)
        of_columns = None
        share = 1.0
        if rows.column_sums is not None:
            share = 0.5
            if needs_gradient:
                of_columns = (block - rows.column_sums).exp_()
        highest, log_sums = softmax_(block)
        values = (highest - own) + log_sums
        if rows.column_sums is not None:
            values = (values + rows.column_sums[columns.squeeze(1)] - own) / 2
        if not needs_gradient:
            return values.sum().item(), None
        if of_columns is not None:
            block.add_(of_columns).mul_(share)
        return values.sum().item(), block.scatter_add_(1, columns, block.new_full(columns.shape, -1.0))

    return cost


def cross_entropy_of_labels(ids: Tensor) -> Cost:
    r"""$\log(1 + e^{c_i - x_{ip}})$ for each pair $(i, p)$ of one id, with $c_i$ the log-sum-exp over other ids.

    With $q_{ip} = 1 / (1 + e^{x_{ip} - c_i})$ and the softmax $p$ over the others, $d_{ip} = -q_{ip}$ for a pair, and
    $d_{in} = p_{in} \sum_p q_{ip}$ for another.
    """

    def cost(rows: Rows, needs_gradient: bool) -> tuple[float, Tensor | None]:
        block = rows.block
        same = same_ids(ids, rows.of(ids))
        has_others = ~same.all(1)
        pairs = (same & ~diagonal_mask(block, rows.start)).nonzero(as_tuple=True)
        own = block[pairs]
        block.masked_fill_(same, -math.inf)
        # Without others there is nothing to divide by; what stands there counts 0 times.
        block[~has_others] = 0
        highest, log_sums = softmax_(block)
        gaps = torch.where(has_others, highest + log_sums, -math.inf)[pairs[0]] - own
        total = -F.logsigmoid(-gaps).sum().item()
        if not needs_gradient:
            return total, None
        slopes = gaps.sigmoid()
        block.mul_(block.new_zeros(len(block)).index_add_(0, pairs[0], slopes).unsqueeze(1))
        block[pairs] = -slopes
        return total, block

    return cost
