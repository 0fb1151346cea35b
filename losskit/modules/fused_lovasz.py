"""The kernels of the Lovász extension of the Jaccard loss, which sort only the pixels that matter.

With errors $e_i$ sorted from the largest, the loss is $\\sum_i e_i\\,(J_i - J_{i-1})$. Between changes of the order the
steps $J_i - J_{i-1}$ are constant, so the gradient with respect to an error is its step. After the last pixel inside
the region, the intersection is 0 and the steps are: pixels outside whose error is below the smallest one inside need no
place. The others are sorted by the bits of their errors, for as long as these are not negative the bits are in the
same order, and torch sorts integers several times as fast.

For a softmax, the probabilities lie in the gradient's own memory, where for one class after the other they give way to
the steps $g_c$. At last the gradient is $p_c\\,(g_c - \\sum_k g_k p_k)$, with $p$ computed once more, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from losskit.modules.fused import Gradients, Kernel, Workspace, blocks
from losskit.modules.fused_overlap import memory_order, softmax
from losskit.modules.shapes import Classes

# From values `(groups, classes)`, and which of them count, to the loss; it is linear in the values.
OfValues = Callable[[Tensor, Tensor], Tensor]

# From how many numbers on torch sorts integers by their digits, and how many are worth being made that many.
_SORTED_BY_DIGITS, _WORTH_FILLING = 2**15, 2**13
# How many pixels are sorted at once, unless there are more than so many such bands; a sample tells where these end.
_BAND, _MOST_BANDS, _SAMPLE = 2**16, 16, 2**10


def jaccard_steps(
    is_inside: Tensor, total: Tensor | int, dtype: torch.dtype, *, found_before: int = 0, placed_before: int = 0
) -> Tensor:
    """By how much the Jaccard loss grows with each further pixel that is wrong, $J_i - J_{i-1}$.

    The difference of two Jaccard losses would lose the digits in large images. A pixel inside takes one off the
    intersection, which gives 1 / union; one outside adds one to the union, which gives intersection / (union - 1) /
    union.

    Args:
        is_inside: of the pixels in their order along the last axis, which are in the region.
        total: how many pixels the region has, of which not all need a place.
        dtype: of the result.
        found_before: how many pixels inside came before these.
        placed_before: how many pixels came before these.
    """
    found = found_before + is_inside.cumsum(-1)
    place = placed_before + torch.arange(1, is_inside.shape[-1] + 1, device=is_inside.device)
    union = (total + place - found).to(dtype)
    intersection = (total - found).to(dtype)
    outside = intersection / (union - 1).clamp_min(1) / union
    # Where nothing is inside, the first wrong pixel takes the loss from 0 to 1.
    alone = (total == 0) & (place == 1)
    return torch.where(alone, torch.ones_like(union), torch.where(is_inside, 1 / union, outside))


def kernel_of_classes(given: Classes, of_values: OfValues, per_image: bool, counts_absent: bool) -> Kernel:
    """The kernel of the extension over the errors of a softmax.

    Args:
        given: the class ids; the class axis is 1.
        of_values: how the loss comes from the values of the classes.
        per_image: whether each image has values of its own.
        counts_absent: whether a class counts that has no pixel.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        (logits,) = tensors
        room = Workspace(logits)
        gradient = None if factor is None else torch.empty_like(logits)
        canvas = _canvas(gradient, room, logits)
        _fill(canvas, logits, given.valid, room)
        num_images, num_classes = logits.shape[:2]
        groups = _groups(num_images, per_image)
        ids = [_ids(given, group, num_classes) for group in groups]
        totals = torch.stack([torch.bincount(x, minlength=num_classes + 1)[:-1] for x in ids])
        counts = totals > 0
        if counts_absent:
            counts = counts.any(1, keepdim=True).expand_as(totals)
        scales = _scales(of_values, counts, factor)
        values = torch.zeros(totals.shape, dtype=torch.float64, device=totals.device)
        means = None if gradient is None else canvas.new_zeros(num_images, logits[0, 0].numel())
        for index, group in enumerate(groups):
            sizes, num_pixels = totals[index].tolist(), len(ids[index])
            order = ids[index].argsort()
            # They take room for a while, and need half of what torch gives indices.
            order = order.int() if num_pixels < 2**31 else order
            inside = torch.split(order, [*sizes, num_pixels - sum(sizes)])
            is_inside = torch.zeros(num_pixels, dtype=torch.bool, device=logits.device)
            steps = None if means is None else room("steps", is_inside.shape)
            for class_id in range(num_classes):
                plane = canvas[group, class_id]
                if counts[index, class_id]:
                    places, errors = inside[class_id].long(), plane.reshape(-1)
                    of_inside = 1 - errors[places]
                    errors.index_copy_(0, places, of_inside)
                    low = of_inside.min() if len(places) else errors.max()
                    pixels = _Pixels(errors, is_inside.index_fill_(0, places, True), len(places), low.item())
                    scale = scales[index, class_id].item()
                    values[index, class_id] = pixels.extension(steps, scale, None if means is None else means[group])
                    is_inside.index_fill_(0, places, False)
                    if steps is not None:
                        plane.copy_(steps.view(plane.shape))
                else:
                    plane.zero_()
        if gradient is not None and means is not None:
            _differentiate(gradient, logits, canvas, means.view(num_images, *logits.shape[2:]), room)
        return of_values(values, counts).item(), [gradient]

    return kernel


def kernel_of_masks(targets: Tensor, of_values: OfValues, per_image: bool, ignore_index: int | None) -> Kernel:
    """The kernel of the extension over the errors of a hinge.

    Args:
        targets: 0, 1 and `ignore_index`, shaped like the logits; for others, the value is NaN.
        of_values: how the loss comes from the values of the masks, `(groups, 1)`.
        per_image: whether each image has a value of its own.
        ignore_index: what marks the pixels that do not count.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        (logits,) = tensors
        room = Workspace(logits)
        gradient = None if factor is None else torch.empty_like(logits)
        canvas = gradient
        if gradient is None or gradient.dtype != room.dtype or not gradient.is_contiguous():
            canvas = logits.new_empty(logits.shape, dtype=room.dtype)
        assert canvas is not None
        groups = _groups(len(logits), per_image)
        has_any = [[_has_any(_counted(targets[group], ignore_index))] for group in groups]
        counts = torch.tensor(has_any, device=logits.device)
        scales = _scales(of_values, counts, factor)
        values = torch.zeros(counts.shape, dtype=torch.float64, device=counts.device)
        for index, group in enumerate(groups):
            labels = targets[group].reshape(-1)
            counted = _counted(labels, ignore_index)
            is_inside = labels == 1
            is_known = (labels == 0).logical_or_(is_inside)
            # Until it holds the steps, the canvas has room for other things.
            steps = canvas[group].view(-1)
            signs = steps.fill_(1).masked_fill_(is_inside, -1)
            errors = torch.mul(logits[group].reshape(-1), signs, out=room("errors", labels.shape)).add_(1)
            if not math.isfinite(errors.sum()):
                return math.nan, [gradient]
            if counted is not None:
                is_inside.logical_and_(counted)
                is_known.logical_or_(~counted)
                errors.masked_fill_(~counted, -1)
            if not is_known.all():
                return math.nan, [gradient]
            total = int(is_inside.sum())
            # Errors below 0 cost nothing, but the pixels inside still count for the size of the region.
            low = steps.copy_(errors).masked_fill_(~is_inside, math.inf).min() if total else errors.max()
            pixels = _Pixels(errors, is_inside, total, max(low.item(), 0.0))
            values[index, 0] = pixels.extension(steps, scales[index, 0].item())
        if gradient is not None and canvas is not gradient:
            gradient.copy_(canvas)
        return of_values(values, counts).item(), [gradient]

    return kernel


class _Pixels(NamedTuple):
    """The pixels of a plane."""

    errors: Tensor  # negative for pixels that do not count
    is_inside: Tensor
    total: int  # how many are inside
    low: float  # errors below this one cost nothing

    def extension(self, steps: Tensor | None, scale: float, means: Tensor | None = None) -> float:
        """The value of the extension; the errors are used up.

        Args:
            steps: gets what a probability or a logit of each pixel adds to the value, times the scale.
            scale: what the value counts for.
            means: gets, added, these steps times the probabilities.
        """
        if math.isnan(self.low):
            return math.nan
        if steps is not None:
            steps.zero_()
        value, num_found, num_placed = 0.0, 0, 0
        for low in self._bands():
            places = (self.errors >= low).nonzero().squeeze(1)
            errors = self.errors[places]
            self.errors.index_fill_(0, places, -1)
            order = _from_largest(errors)
            places, errors = places[order], errors[order]
            is_inside = self.is_inside[places]
            found = jaccard_steps(
                is_inside, self.total, torch.float64, found_before=num_found, placed_before=num_placed
            )
            value += torch.dot(errors.double(), found).item()
            num_found, num_placed = num_found + int(is_inside.sum()), num_placed + len(places)
            if steps is not None:
                signed = found.mul_(scale).to(steps.dtype)
                signed = torch.where(is_inside, -signed, signed)
                steps.index_copy_(0, places, signed)
                if means is not None:
                    means.view(-1).index_add_(0, places, signed * torch.where(is_inside, 1 - errors, errors))
        return value

    def _bands(self) -> list[float]:
        """Errors from which on pixels are sorted together, so that what that takes stays small; the last has all."""
        if len(self.errors) <= _BAND:
            return [self.low]
        sample = self.errors[:: max(len(self.errors) // _SAMPLE, 1)]
        sample = sample[sample > self.low].sort(descending=True).values
        step = max(_BAND * _SAMPLE // len(self.errors), _SAMPLE // _MOST_BANDS)
        return [*torch.unique(sample[step - 1 :: step]).flip(0).tolist(), self.low]


def _from_largest(numbers: Tensor) -> Tensor:
    """The order of numbers that are not negative, the largest first."""
    keys = ~numbers.view(torch.int64 if numbers.dtype == torch.float64 else torch.int32)
    size = len(keys)
    if _WORTH_FILLING <= size < _SORTED_BY_DIGITS:
        # Those that are added come last.
        keys = torch.cat((keys, keys.new_zeros(_SORTED_BY_DIGITS - size)))
    return keys.argsort()[:size]


def _groups(num_images: int, per_image: bool) -> list[slice]:
    """The images that have a value of their own, or all of them."""
    return [slice(i, i + 1) for i in range(num_images)] if per_image else [slice(0, num_images)]


def _scales(of_values: OfValues, counts: Tensor, factor: float | None) -> Tensor:
    """The derivatives of the loss with respect to the values, times the factor; 0 without one."""
    values = torch.zeros(counts.shape, dtype=torch.float64, device=counts.device)
    if factor is None:
        return values  # not differentiated, as nothing can be in inference mode
    with torch.enable_grad():
        loss = of_values(values.requires_grad_(), counts) * factor
        return torch.autograd.grad(loss, values)[0]


def _canvas(gradient: Tensor | None, room: Workspace, logits: Tensor) -> Tensor:
    """Contiguous room for a number per logit: where possible that of the gradient, which may have another order."""
    if gradient is not None and gradient.dtype == room.dtype:
        memory = gradient.permute(memory_order(gradient))
        if memory.is_contiguous():
            return memory.view(logits.shape)
    return logits.new_empty(logits.shape, dtype=room.dtype)


def _ids(given: Classes, group: slice, num_classes: int) -> Tensor:
    """The class ids of a group in a row, and one more where a pixel does not count."""
    # Narrow integers are sorted faster.
    ids = given.targets[group].reshape(-1).to(torch.int16 if num_classes < 2**15 else torch.int64)
    return ids if given.valid is None else ids.masked_fill(~given.valid[group].reshape(-1), num_classes)


def _counted(labels: Tensor, ignore_index: int | None) -> Tensor | None:
    """Which labels count; None for all."""
    if ignore_index is None:
        return None
    if not labels.is_floating_point() and labels.dtype != torch.bool:
        limits = torch.iinfo(labels.dtype)
        if not limits.min <= ignore_index <= limits.max:
            return None
    return labels != ignore_index


def _has_any(counted: Tensor | None) -> bool:
    return counted is None or bool(counted.any())


def _fill(canvas: Tensor, logits: Tensor, valid: Tensor | None, room: Workspace) -> None:
    """Puts the softmax there, -1 where a pixel does not count."""
    if logits.is_contiguous() and logits.dtype == room.dtype:
        torch.ops.aten._softmax.out(logits, 1, False, out=canvas)
    else:
        for block in blocks([logits, canvas], [], 1, 1):
            block.store(1, softmax(block.tensor(0, room), block.buffer(1, room), room))
    if valid is not None:
        canvas.masked_fill_(~valid.unsqueeze(1), -1)


def _differentiate(gradient: Tensor, logits: Tensor, canvas: Tensor, means: Tensor, room: Workspace) -> None:
    """Makes the gradient, of the steps on a canvas, and of their means under the softmax."""
    overlaps = canvas.data_ptr() == gradient.data_ptr() and not gradient.is_contiguous()
    # Where steps lie in the gradient's memory in another order, they make way image by image.
    for images in _groups(len(logits), per_image=overlaps):
        steps = canvas[images].clone() if overlaps else canvas[images]
        for block in blocks([logits[images], gradient[images], steps], [means[images]], 1, 1):
            found = room("found", block.shape)
            torch.ops.aten._softmax.out(block.tensor(0, room), 1, False, out=found)
            mean = block.item(0)
            assert mean is not None
            # The steps are not needed any more.
            block.store(1, block.tensor(2).sub_(mean.unsqueeze(1)).mul_(found))
