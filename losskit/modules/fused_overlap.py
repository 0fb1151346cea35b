"""The kernel of losses of overlaps: of predicted and true regions, such as dice.

With probabilities $p$ and masks $m$, such a loss is a function $f$ of three sums over the pixels of each class in each
sample: $I = \\sum p\\,m$, $S = \\sum p$ or $\\sum p^2$, and the like of $m$. So there are two passes. The first writes
$p$ into the gradient's own memory, and takes the sums. Autograd then differentiates $f$, over a few numbers, and the
second pass turns $p$ into the gradient where it lies. With

$g_c = \\frac{\\partial f}{\\partial I_c}\\,m_c + \\frac{\\partial f}{\\partial S_c} \\cdot (1 \\text{ or } 2 p_c)$,

what a probability adds to the loss, the gradient of the logits is $p_c\\,(g_c - \\sum_k g_k p_k)$ for a softmax, and
$p_c\\,(1 - p_c)\\,g_c$ for a sigmoid.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from losskit.modules import fused
from losskit.modules.fused import Block, Gradients, Kernel, Workspace, block_size, blocks
from losskit.modules.shapes import FULL, Classes

# From the sums, each `(batch, classes)`, to the loss; what is computed is differentiated.
OfSums = Callable[[Tensor, Tensor, Tensor], Tensor]


def kernel_of_overlaps(
    given: Classes, activation: str, of_sums: OfSums, *, squared: bool = False, ignore_index: int | None = None
) -> Kernel:
    """The kernel of $f$.

    Args:
        given: the targets: ids, or masks shaped like the logits; the class axis is 1.
        activation: `softmax`, `sigmoid` or `none`.
        of_sums: $f$, of the sums of $p\\,m$, of $p$ and of $m$.
        squared: whether the last two are sums of squares.
        ignore_index: what marks the pixels of masks that do not count; for ids, `given` says so.
    """
    known: list[tuple[Tensor, ...]] = []

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        (logits,) = tensors
        gradient = None if factor is None else torch.empty_like(logits)
        regions = _Regions(given, activation, squared, ignore_index, logits, gradient)
        # In half precision, the gradient is asked for later, when the sums are still the same.
        sums = known.pop() if known and not regions.holds_probabilities else regions.sums()
        if factor is None:
            known.append(sums)
            return of_sums(*sums).item(), [None]
        overlaps, sizes, true_sizes = sums
        with torch.enable_grad():
            variables = overlaps.requires_grad_(), sizes.requires_grad_()
            value = of_sums(overlaps, sizes, true_sizes)
            slopes = torch.autograd.grad(value, variables, torch.full_like(value, factor))
        regions.differentiate(*slopes)
        return value.item(), [gradient]

    return kernel


class _Regions:
    """Probabilities and masks of regions, and the gradient, in which the probabilities lie between the passes."""

    def __init__(
        self,
        given: Classes,
        activation: str,
        squared: bool,
        ignore_index: int | None,
        logits: Tensor,
        gradient: Tensor | None,
    ) -> None:
        self._are_ids, self._activation, self._squared = given.are_ids, activation, squared
        self._logits, self._others = logits, [gradient, None if given.are_ids else given.targets]
        self._items = [given.targets, given.valid] if given.are_ids else []
        self._room = Workspace(logits)
        # A bool cannot hold an index, and integers may be class ids that were given for masks.
        self._ignore_index = None if given.targets.dtype == torch.bool else ignore_index
        self._may_be_ids = not given.targets.is_floating_point() and given.targets.dtype != torch.bool
        self.holds_probabilities = activation != "none" and gradient is not None and gradient.dtype in FULL

    def sums(self) -> tuple[Tensor, ...]:
        """The sums of $p\\,m$, of $p$ and of $m$, the last two of squares if so wanted, `(batch, classes)`.

        In float64, for counts of millions would lose a part in a hundred in float32.
        """
        logits = self._logits
        if self.holds_probabilities:
            # Whole samples, where they lie in one piece: what is written needs no other room.
            is_whole = logits[:1].permute(memory_order(logits)).is_contiguous()
            for part in self._parts(max(logits[:1].numel(), block_size(logits, 1)) if is_whole else None):
                part.store(self._activated(part))
        overlaps, sizes, true_sizes = torch.zeros((3, *logits.shape[:2]), dtype=torch.float64, device=logits.device)
        for part in self._parts():
            probabilities = self._probabilities(part)
            masks, valid = self._masks(part)
            shape = probabilities.shape
            if valid is not None:
                probabilities = torch.mul(probabilities, valid, out=self._room("counts", shape))
            if masks is None:
                overlaps[part.rows] += part.per_label(probabilities.gather(2, part.ids))
                true_sizes[part.rows] += part.per_label(valid)
            else:
                terms = torch.mul(probabilities, masks, out=self._room("terms", shape))
                overlaps[part.rows] += part.per_class(terms)
                true_sizes[part.rows] += part.per_class(self._sizes(masks))
            sizes[part.rows] += part.per_class(self._sizes(probabilities))
        return overlaps, sizes, true_sizes

    def _sizes(self, values: Tensor) -> Tensor:
        """What each probability or mask adds to the size of its region."""
        return torch.square(values, out=self._room("terms", values.shape)) if self._squared else values

    def differentiate(self, of_overlaps: Tensor, of_sizes: Tensor) -> None:
        """Makes the gradient, from the derivatives of the loss with respect to the sums."""
        for part in self._parts():
            probabilities = self._probabilities(part)
            counts = self._counts(part, probabilities, of_overlaps, of_sizes)
            found, own = probabilities, None
            if self._are_ids:
                # The mask of class ids is 1 in one place: there, more is added.
                ids, at_labels = part.ids, part.at_labels(of_overlaps)
                own = probabilities.gather(2, ids)
            if self._activation == "softmax":
                terms = torch.mul(probabilities, counts, out=self._room("terms", probabilities.shape))
                mean = terms.sum(2, keepdim=True)
                if own is not None:
                    at_labels = at_labels * own
                    mean += at_labels
                found.mul_(torch.sub(counts, mean, out=terms))
            elif self._activation == "sigmoid":
                terms = torch.sub(1, probabilities, out=self._room("terms", probabilities.shape))
                found.mul_(terms.mul_(counts))
                if own is not None:
                    at_labels = at_labels * own * (1 - own)
            else:
                found = part.buffer().copy_(counts.expand_as(probabilities))
            if own is not None:
                found.scatter_add_(2, ids, at_labels)
                valid = part.valid()
                if valid is not None:
                    found.mul_(valid)
            part.store(found)

    def _counts(self, part: _Part, probabilities: Tensor, of_overlaps: Tensor, of_sizes: Tensor) -> Tensor:
        """$g$, without what is added at the labels of class ids."""
        counts = part.along_classes(of_sizes)
        if self._squared:
            counts = torch.mul(probabilities, 2 * counts, out=self._room("counts", probabilities.shape))
        if self._are_ids:
            return counts
        masks, valid = self._masks(part)
        assert masks is not None
        room = self._room("counts", probabilities.shape)
        counts = torch.addcmul(counts, part.along_classes(of_overlaps), masks, out=room)
        # Of a pixel, some masks may count and others not.
        return counts if valid is None else counts.mul_(valid)

    def _parts(self, size: int | None = None) -> Iterator[_Part]:
        """The blocks, or parts of another size. Each lies within a sample, or has several whole ones."""
        logits = self._logits
        if size is None:
            # So much is done with a block that small ones take longer to call than to compute.
            size = max(block_size(logits, 1), 4 * fused.SMALLEST_BLOCK)
        step = max(size // max(logits[0].numel(), 1), 1)
        order = memory_order(logits)
        rest = [d - (d > 1) for d in order if d != 1]
        for start in range(0, len(logits), step):
            rows = slice(start, min(start + step, len(logits)))
            tensors = [None if tensor is None else tensor[rows] for tensor in (logits, *self._others)]
            items = [None if item is None else item[rows] for item in self._items]
            if step == 1:
                for block in blocks(tensors, items, 1, size=size):
                    yield _Part(block, rows, self._room)
            else:
                tensors = [None if tensor is None else tensor.permute(order) for tensor in tensors]
                items = [None if item is None else item.permute(rest) for item in items]
                yield _Part(Block(tensors, items, order.index(1)), rows, self._room)

    def _probabilities(self, part: _Part) -> Tensor:
        """Those of the pixels, which may be overwritten unless there is no activation."""
        if self.holds_probabilities:
            return part.tensor(1)
        return part.tensor(0) if self._activation == "none" else self._activated(part)

    def _activated(self, part: _Part) -> Tensor:
        logits, found = part.tensor(0), part.buffer()
        if self._activation == "sigmoid":
            return torch.sigmoid(logits, out=found)
        return part.by_sample(softmax(part.flat(logits), part.flat(found), self._room))

    def _masks(self, part: _Part) -> tuple[Tensor | None, Tensor | None]:
        """The masks, None for class ids; and which pixels count, None for all."""
        if self._are_ids:
            return None, part.valid()
        masks, valid = part.tensor(2), None
        if self._ignore_index is not None or self._may_be_ids:
            low, high = (extreme.item() for extreme in masks.aminmax())
            if self._ignore_index is not None and low <= self._ignore_index <= high:
                valid = masks != self._ignore_index
                masks = torch.mul(masks, valid, out=self._room("tensor 2", masks.shape))
                low, high = (extreme.item() for extreme in masks.aminmax())
            if self._may_be_ids and (low < 0 or high > 1):
                # Of which the plain form has an error to tell.
                masks = masks + math.nan
        return masks, valid


def softmax(logits: Tensor, found: Tensor, room: Workspace) -> Tensor:
    """The softmax over axis 1; in `found` if possible."""
    # What is not contiguous, torch would silently leave as it is.
    found = found if found.is_contiguous() else room("softmax", found.shape)
    torch.ops.aten._softmax.out(logits, 1, False, out=found)
    return found


def memory_order(tensor: Tensor) -> list[int]:
    """The axes as they lie in memory, but for the first, which comes first."""
    return [0, *sorted(range(1, tensor.ndim), key=lambda axis: -tensor.stride()[axis] if tensor.shape[axis] > 1 else 0)]


class _Part:
    """A block, read as `(samples, outer, classes, inner)`, or without the inner axis where the classes lie last."""

    def __init__(self, block: Block, rows: slice, room: Workspace) -> None:
        self._block, self.rows, self._room = block, rows, room
        self._num_samples = rows.stop - rows.start
        self._axes = (1, 3) if len(block.shape) == 3 else (1,)

    def tensor(self, index: int) -> Tensor:
        """One of the tensors."""
        return self.by_sample(self._block.tensor(index, self._room))

    def buffer(self) -> Tensor:
        """Room for the gradient, where possible its own memory."""
        return self.by_sample(self._block.buffer(1, self._room))

    def store(self, buffer: Tensor) -> None:
        """Puts what a buffer holds into the gradient."""
        self._block.store(1, buffer)

    def flat(self, tensor: Tensor) -> Tensor:
        """As the block itself has it, with the class axis 1."""
        return tensor.flatten(0, 1)

    @functools.cached_property
    def ids(self) -> Tensor:
        """The class ids, with a class axis."""
        ids = self._block.item(0)
        assert ids is not None
        return self.by_sample(ids).unsqueeze(2)

    def valid(self) -> Tensor | None:
        """Which pixels count, with a class axis."""
        valid = self._block.item(1)
        return None if valid is None else self.by_sample(valid).unsqueeze(2)

    def per_class(self, values: Tensor) -> Tensor:
        """The sums over all pixels, `(samples, classes)`."""
        return values.sum(self._axes)

    def per_label(self, values: Tensor | None) -> Tensor:
        """The sums of values of pixels, of ones without any, over those of each label, `(samples, classes)`."""
        shape = self._num_samples, self._block.shape[1]
        weights = None if values is None else values.flatten().double()
        return torch.bincount(self._places, weights, shape[0] * shape[1]).view(shape)

    def along_classes(self, table: Tensor) -> Tensor:
        """What a table `(batch, classes)` says of all pixels."""
        return table[self.rows].to(self._room.dtype).reshape(self._num_samples, 1, -1, *(1,) * (len(self._axes) - 1))

    def at_labels(self, table: Tensor) -> Tensor:
        """What a table `(batch, classes)` says of the pixels' labels, with a class axis."""
        return table[self.rows].to(self._room.dtype).flatten().index_select(0, self._places).view(self.ids.shape)

    @functools.cached_property
    def _places(self) -> Tensor:
        """Where the pixels' labels lie in the rows of a table."""
        ids = self.ids.reshape(self._num_samples, -1)
        if self._num_samples > 1:
            ids = ids + self._block.shape[1] * torch.arange(self._num_samples, device=ids.device).unsqueeze(1)
        return ids.flatten()

    def by_sample(self, values: Tensor) -> Tensor:
        """The inverse of `flat`, of items as well."""
        return values.view(self._num_samples, -1, *values.shape[1:])
