r"""The kernel of losses of the similarities of all pairs of a batch, computed block by block of their matrix.

With rows $u_i$ and $v_j$, vectors or their directions, the similarities are $x_{ij} = u_i \cdot v_j / \tau$, and a
loss is a sum over rows, $L = \sum_i f_i(x_{i1}, x_{i2}, \dots)$. So some rows of $x$ are all that must exist at a time:
a cost turns them into their sum and their derivative $d = \partial L / \partial x$, from which two matrix products make

$\partial L / \partial u_i = \frac{1}{\tau} \sum_j d_{ij} v_j$ and
$\partial L / \partial v_j = \frac{1}{\tau} \sum_i d_{ij} u_i$,

both in one place where $u$ and $v$ are the same. As $\partial x / \partial \tau = -x / \tau$,
$\partial L / \partial \tau = -\frac{1}{\tau} \sum_{ij} d_{ij} x_{ij} = -\frac{1}{\tau} \sum_i u_i \cdot \partial L /
\partial u_i$. What lies before, the division by lengths, is differentiated once, at the end.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.modules import fused
from losskit.modules.fused import Gradients, Kernel
from losskit.modules.fused_softmax import softmax_
from losskit.modules.similarities import lengths, same_ids, through_unit_

# Rows of a block at least, with which matrix products are efficient.
LEAST_ROWS = 128
# Elements of a matrix of similarities that is kept where it is needed twice, rather than computed again.
LARGEST_KEPT = 2**22


class Condition(TypedDict):
    """Arguments of `fused.reduced`."""

    times_least_size: float
    size: int


def when_worth_it(samples: int) -> Condition:
    """When the kernels of all pairs of so many samples are the faster form, as products are most of what they do."""
    return {"times_least_size": 1 / 4, "size": samples * samples}


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
        given = _Given(tensors, normalize, temperature)
        gradients = given.gradients(factor)
        total = 0.0
        for rows in _blocks(given.one, given.other, given.divisor, of_columns):
            value, slopes = cost(rows, factor is not None)
            total += value
            if slopes is not None and gradients[0] is not None:
                rows.of(gradients[0]).addmm_(slopes, given.other)
            if slopes is not None and gradients[-1] is not None:
                gradients[-1].addmm_(slopes.T, rows.of(given.one))
        return total, given.finished(gradients, (factor or 0.0) / given.divisor)

    return kernel


class _Given:
    """What a kernel is given: vectors, or two of them, and perhaps a temperature."""

    def __init__(self, tensors: Sequence[Tensor], normalize: bool, temperature: float) -> None:
        self.vectors = [tensor for tensor in tensors if tensor.ndim]
        self.temperature = tensors[-1] if len(tensors) > len(self.vectors) else None
        self.divisor = temperature if self.temperature is None else self.temperature.item()
        self.lengths = [lengths(x) for x in self.vectors] if normalize else []
        sides = (
            [x / length for x, length in zip(self.vectors, self.lengths, strict=True)] if normalize else self.vectors
        )
        self.one, self.other = sides[0], sides[-1]

    def gradients(self, factor: float | None) -> list[Tensor | None]:
        """Zeros for the gradients of what needs them."""
        # That of a temperature follows from that of the first.
        needed = [x.requires_grad or (x is self.vectors[0] and self.temperature is not None) for x in self.vectors]
        return [
            torch.zeros_like(x) if is_needed and factor is not None else None
            for x, is_needed in zip(self.vectors, needed, strict=True)
        ]

    def finished(self, gradients: Sequence[Tensor | None], factor: float) -> list[Tensor | None]:
        """The gradients of all inputs, times the factor, from those of the two factors of similarities, in place."""
        found = [None if gradient is None else gradient.mul_(factor) for gradient in gradients]
        if self.temperature is not None:
            first = found[0]
            found.append(None if first is None else -torch.linalg.vecdot(self.one, first).sum() / self.temperature)
        for gradient, side, length in zip(gradients, (self.one, self.other), self.lengths, strict=False):
            if gradient is not None:
                through_unit_(gradient, side, length)
        return found


def _rows_at_once(other: Tensor) -> int:
    return max(LEAST_ROWS, fused.SMALLEST_BLOCK // len(other))


def _blocks(one: Tensor, other: Tensor, divisor: float, of_columns: bool) -> Iterator[Rows]:
    """The similarities, some rows at a time."""
    step = _rows_at_once(other)
    keeps_all = of_columns and len(one) * len(other) <= LARGEST_KEPT
    buffer = one.new_empty(len(one) if keeps_all else min(step, len(one)), len(other))

    def rows_from(start: int) -> Tensor:
        left = one[start : start + step] / divisor
        return torch.mm(left, other.T, out=buffer[start : start + step] if keeps_all else buffer[: len(left)])

    starts = range(0, len(one), step)
    column_sums = _column_sums((rows_from(start) for start in starts), other) if of_columns else None
    for start in starts:
        yield Rows(buffer[start : start + step] if keeps_all else rows_from(start), start, column_sums)


def _column_sums(blocks: Iterator[Tensor], other: Tensor) -> Tensor:
    """For each column the logarithm of its sum of exponentials, relative to the highest so far."""
    highest = other.new_full((len(other),), -math.inf)
    sums = other.new_zeros(len(other))
    for block in blocks:
        higher = torch.maximum(highest, block.amax(0))
        sums.mul_((highest - higher).exp_()).add_((block - higher).exp_().sum(0))
        highest = higher
    return sums.log_().add_(highest)


def kernel_of_partners(
    partners: Tensor, *, normalize: bool = True, temperature: float = 1.0, of_columns: bool = False
) -> Kernel:
    r"""The kernel of the sum of $-\log p_{ik}$, of each row's partner $k$ in the softmax of the similarities to others.

    Of one set of vectors with itself, in which partners are each other's; or of two sets, in which rows of the same
    number are partners, and then perhaps the mean with that of the softmax of columns.

    Where these are sums over all that both factors meet, with the exponentials $e_{ij} = e^{x_{ij} - b}$ for a bound
    $b = \max_i |u_i| \max_j |v_j| / \tau$ of all similarities, and their sums $r_i$ over rows and $c_j$ over columns,

    $L = \frac{1}{2} \sum_i \log \frac{r_i}{e_{ik}} + \log \frac{c_k}{e_{ik}}$ and
    $d_{ij} = \frac{1}{2} e_{ij} (1 / r_i + 1 / c_j) - [j = k]$.

    So each exponential is needed once. Of one set with itself, $x$ is symmetric, $r = c$, and half of it gives all,
    with $d_{ij} + d_{ji}$ for $d_{ij}$. What is next to nothing beside $e^b$ has lost digits; where that is so, the
    softmax of each row is computed by itself.

    Args:
        partners: the number of the column that belongs to each row.
        normalize: as for `kernel_of_pairs`.
        temperature: as for `kernel_of_pairs`.
        of_columns: whether the loss is the mean of those of rows and columns.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        of_self = sum(tensor.ndim > 0 for tensor in tensors) == 1
        if of_self or of_columns:
            found = _by_exponentials(_Given(tensors, normalize, temperature), partners, factor)
            if found is not None:
                return found
        cost = cross_entropy_of_pairs(partners, with_selves=not of_self)
        careful = kernel_of_pairs(cost, normalize=normalize, temperature=temperature, of_columns=of_columns)
        return careful(tensors, factor)

    return kernel


class _Exponentials:
    """$e_{ij}$ of some rows; of one set with itself, in the columns from these rows' own numbers on."""

    def __init__(self, given: _Given, partners: Tensor, keeps_all: bool) -> None:
        self._one, self._other, self._divisor, self._partners = given.one, given.other, given.divisor, partners
        self.of_self = given.one is given.other
        self.step = _rows_at_once(given.other)
        longest = [torch.linalg.vector_norm(side, dim=1).amax() for side in (given.one, given.other)]
        self._bound = (longest[0] * longest[1]).item() / given.divisor
        room = 0 if keeps_all else min(self.step, len(given.one)) * len(given.other)
        self._buffer = given.one.new_empty(room)
        self._keeps_all = keeps_all

    def block(self, start: int) -> Tensor:
        """In new memory, if all are to be kept."""
        left = self._one[start : start + self.step] / self._divisor
        right = self._other[self.first(start) :]
        shape = len(left), len(right)
        block = left.new_empty(shape) if self._keeps_all else self._buffer[: math.prod(shape)].view(shape)
        torch.mm(left, right.T, out=block).sub_(self._bound).exp_()
        if self.of_self:
            block.diagonal().zero_()
        return block

    def first(self, start: int) -> int:
        """The number of a block's first column."""
        return start if self.of_self else 0

    def places(self, start: int) -> tuple[Tensor, Tensor]:
        """The rows and columns, within a block, of those of its rows whose partners it has."""
        columns = self._partners[start : start + self.step] - self.first(start)
        rows = (columns >= 0).nonzero().squeeze(1)
        return rows, columns[rows]


def _by_exponentials(given: _Given, partners: Tensor, factor: float | None) -> tuple[float, Gradients] | None:
    """What the kernel gives; None where digits would be lost."""
    one, other = given.one, given.other
    of_self = one is other
    keeps_all = factor is not None and len(one) * len(other) <= LARGEST_KEPT * (2 if of_self else 1)
    exponentials = _Exponentials(given, partners, keeps_all)
    starts = range(0, len(one), exponentials.step)
    least = torch.finfo(one.dtype).tiny * 2**40
    own, sums = one.new_zeros(len(one)), one.new_zeros(len(one))
    column_sums = sums if of_self else one.new_zeros(len(other))
    kept: deque[Tensor] = deque()
    for start in starts:
        block, first = exponentials.block(start), exponentials.first(start)
        rows = slice(start, start + len(block))
        # Of one set with itself, the first columns are these rows.
        seen = len(block) if of_self else 0
        sums[rows] += block.sum(1)
        if not sums[rows].amin().item() > least:
            return None
        column_sums[first + seen :] += block[:, seen:].sum(0)
        some, columns = exponentials.places(start)
        own[start + some] = block[some, columns]
        if of_self:
            own[start + columns] = block[some, columns]
        if keeps_all:
            kept.append(block)
    if not min(column_sums.amin().item(), own.amin().item()) > least:
        return None
    # No sum is less than one of its parts, so that no rounding makes this less than 0.
    total: float = ((sums / own).log_() + (column_sums / own).log_()).sum().item() / 2
    gradients = given.gradients(factor)
    if factor is None:
        return total, gradients
    share = 1.0 if of_self else 0.5
    weights, column_weights = share / sums, share / column_sums
    for start in starts:
        block, first = kept.popleft() if keeps_all else exponentials.block(start), exponentials.first(start)
        rows, seen = slice(start, start + len(block)), len(block) if of_self else 0
        block.mul_(weights[rows].unsqueeze(1) + column_weights[first:])
        block[exponentials.places(start)] -= 2 * share
        if gradients[0] is not None:
            gradients[0][rows].addmm_(block, other[first:])
        if gradients[-1] is not None:
            gradients[-1][first + seen :].addmm_(block[:, seen:].T, one[rows])
    return total, given.finished(gradients, factor / given.divisor)


def fill_(block: Tensor, where: Tensor, value: float) -> Tensor:
    """What `masked_fill_` does, which is slower."""
    return torch.where(where, block.new_tensor(value), block, out=block)


def log_one_plus_sum_(rows: Rows, scale: float, base: float) -> Tensor:
    r"""$\frac{1}{s} \log(1 + \sum_j e^{s (x_{ij} - b)})$ of each row, without its own number; $-\infty$ adds nothing.

    In place, each similarity becomes the derivative with respect to it, $e^{s (x_{ij} - b)}$ divided by what the
    logarithm is of: a softmax, in which the place of a row's own number stands for the 1.
    """
    own = scale * base
    rows.block.mul_(scale)
    rows.own().fill_(own)
    highest, log_sums = softmax_(rows.block)
    rows.own().zero_()
    return ((highest - own) + log_sums) / scale


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
        of_columns = None if rows.column_sums is None else rows.column_sums[columns.squeeze(1)] - own
        exponentials = None
        if rows.column_sums is not None and needs_gradient:
            exponentials = (block - rows.column_sums).exp_()
        highest, log_sums = softmax_(block)
        values = (highest - own) + log_sums
        total = values.sum().item() if of_columns is None else (values + of_columns).sum().item() / 2
        if not needs_gradient:
            return total, None
        if exponentials is not None:
            block.add_(exponentials).div_(2)
        return total, block.scatter_add_(1, columns, block.new_full(columns.shape, -1.0))

    return cost


def cross_entropy_of_labels(ids: Tensor) -> Cost:
    r"""$\log(1 + e^{c_i - x_{ip}})$ for each pair $(i, p)$ of one id, with $c_i$ the log-sum-exp over other ids.

    With $q_{ip} = 1 / (1 + e^{x_{ip} - c_i})$ and the softmax $p$ over the others, $d_{ip} = -q_{ip}$ for a pair, and
    $d_{in} = p_{in} \sum_p q_{ip}$ for another.
    """

    of_one = bool((ids == ids[:1]).all())

    def cost(rows: Rows, needs_gradient: bool) -> tuple[float, Tensor | None]:
        if of_one:  # nothing to be told from
            return 0.0, None
        block, same = rows.block, same_ids(ids, rows.of(ids))
        rows.own().fill_(-math.inf)
        same.diagonal(rows.start).fill_(False)
        pairs = same.nonzero(as_tuple=True)
        own = block[pairs]
        fill_(block, same, -math.inf)
        highest, log_sums = softmax_(block)
        gaps = (highest + log_sums)[pairs[0]] - own
        total = -F.logsigmoid(-gaps).sum().item()
        if not needs_gradient:
            return total, None
        slopes = gaps.sigmoid()
        block.mul_(block.new_zeros(len(block)).index_add_(0, pairs[0], slopes).unsqueeze(1))
        block[pairs] = -slopes
        return total, block

    return cost
