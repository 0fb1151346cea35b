"""Losses that are computed together with their gradient, block by block, in little more memory than the gradient takes.

A loss has a plain form, which autograd differentiates: it keeps a result of each step, all as large as the input. Where
the gradient has a formula, a kernel does better. It goes through the input in blocks that fit a cache, and writes into
the one large buffer that must exist, that of the gradient. The plain form stays the definition: it is what compilers,
function transforms and forward mode see, what differentiates a gradient once more, and what small inputs take, which
all this would slow down. It also decides whatever is not finite.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from losskit.modules import checking
from losskit.modules.shapes import FULL, without_autocast

Gradients = Sequence[Tensor | None]
# Takes the inputs and a factor, and gives the loss, and the gradients of the loss times the factor, each in the dtype
# of its input; without a factor, no gradients are asked for. It gets half precision as it is, and computes in float32.
Kernel = Callable[[Sequence[Tensor], "float | None"], tuple[float, Gradients]]

# Elements of an input from which on a kernel is faster than a plain form of several steps.
LEAST_SIZE = 2**17
# Elements of a block: as many as a processor's cache holds.
SMALLEST_BLOCK, LARGEST_BLOCK = 2**15, 2**18


def can_fuse(*tensors: Tensor, times_least_size: float = 1, size: int | None = None) -> bool:
    """Whether kernels may take these inputs, the first of which is the largest: on a CPU, in plain eager code.

    A kernel that is faster only than larger plain forms, or than smaller ones too, says how many times as large.
    `size` is the number of elements of what the plain form makes of the inputs, where that is more than they have.
    """
    return (
        # A compiler would take a comparison of sizes for one that must always come out so.
        not torch.compiler.is_compiling()
        and (tensors[0].numel() if size is None else size) >= max(LEAST_SIZE * times_least_size, 1)
        and all(checking.can_peek(tensor) for tensor in tensors)
        and forward_ad._current_level < 0
    )


def fused(kernel: Kernel, plain: Callable[..., Tensor], *tensors: Tensor, constants: Sequence[Tensor] = ()) -> Tensor:
    """`plain(*tensors)`, computed by the kernel.

    The kernel gives the gradient along with the value, which saves a pass over the inputs. In float16 it would fall
    below the least number: there the factor that comes in the backward pass, that of a `GradScaler`, must be in before
    the gradient is rounded, and the kernel runs once more. So it does in bfloat16, for a factor that would round the
    gradient again. Like the inputs, the constants, which the kernel reads besides, must not have been overwritten by
    then; autograd sees to it.
    """
    needed = [tensor.requires_grad and torch.is_grad_enabled() for tensor in tensors]
    is_early = any(needed) and not any(tensor.dtype == torch.float16 for tensor in tensors)
    with torch.no_grad(), without_autocast(tensors[0]):
        value, gradients = kernel(tensors, 1.0 if is_early else None)
    if not math.isfinite(value):
        return plain(*tensors)
    dtype = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
    result = torch.tensor(value, dtype=dtype, device=tensors[0].device)
    if not any(needed):
        return result
    found: Tensor = _Fused.apply(  # type: ignore[no-untyped-call]
        result, kernel, plain, gradients if is_early else None, constants, *tensors
    )
    return found


def reduced(
    kernel: Kernel,
    plain: Callable[..., Tensor],
    tensors: Sequence[Tensor],
    reduction: str,
    *,
    count: Tensor | int | None = None,
    normalizer: Tensor | float | None = None,
    constants: Sequence[Tensor | None] = (),
    times_least_size: float = 1,
    size: int | None = None,
) -> Tensor:
    """`plain(*tensors)`, which reduces its values as the rest of the arguments would have `reduce` do it.

    Args:
        kernel: gives the sum of the values.
        plain: the plain form, reduced.
        tensors: the inputs, the first of which is the largest.
        reduction: `mean`, `batchmean` or `sum`; for others, the plain form is taken.
        count: as in `reduce`.
        normalizer: as in `reduce`.
        constants: what the kernel takes besides, None for nothing, and gives no gradient.
        times_least_size: as in `can_fuse`.
        size: as in `can_fuse`.
    """
    others = [constant for constant in constants if constant is not None]
    is_possible = can_fuse(*tensors, *others, times_least_size=times_least_size, size=size)
    is_possible = is_possible and not any(constant.requires_grad for constant in others)
    divisor = _divisor(tensors, reduction, count, normalizer) if is_possible else 0.0
    if not divisor > 0:
        return plain(*tensors)

    def divided(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        total, gradients = kernel(tensors, None if factor is None else factor / divisor)
        return total / divisor, gradients

    return fused(divided, plain, *tensors, constants=others)


def _divisor(
    tensors: Sequence[Tensor], reduction: str, count: Tensor | int | None, normalizer: Tensor | float | None
) -> float:
    """What the sum is divided by; 0 where the plain form has more to say."""
    if reduction == "none" or (reduction == "sum" and normalizer is not None):
        return 0.0
    if reduction == "sum":
        return 1.0
    found: Tensor | float = tensors[0].numel() if count is None else count
    if normalizer is not None:
        found = normalizer
    elif reduction == "batchmean":
        found = len(tensors[0])
    if isinstance(found, Tensor):
        return found.item() if found.numel() == 1 and checking.can_peek(found) and not found.requires_grad else 0.0
    return float(found)


class _Fused(torch.autograd.Function):
    """A value whose gradients are known, or will be computed by the kernel."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        kernel: Kernel,
        plain: Callable[..., Tensor],
        gradients: Gradients | None,
        constants: Sequence[Tensor],
        *tensors: Tensor,
    ) -> Tensor:
        ctx.kernel, ctx.plain, ctx.gradients = kernel, plain, gradients
        # Those of inference mode cannot be saved, and do not count how often they are written to.
        ctx.save_for_backward(*tensors, *(constant for constant in constants if not constant.is_inference()))
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        # They are given away: what becomes the gradient of a parameter must have no second owner, or it is copied.
        gradients, ctx.gradients = ctx.gradients, None
        needed = ctx.needs_input_grad[5:]
        kernel, plain = ctx.kernel, ctx.plain
        if not _graph_is_kept():
            # As autograd frees the inputs, and these hold them too: whoever keeps the value, such as a loop until its
            # next step has one, must not keep the logits.
            ctx.kernel = ctx.plain = None
        number: float | None = None
        if not torch.is_grad_enabled() and checking.can_peek(factor):
            with contextlib.suppress(RuntimeError):  # where it stands for several numbers at once
                number = factor.item()
        if number is None:
            gradients = _differentiated(plain, ctx.saved_tensors[: len(needed)], needed, factor)
        elif gradients is None or not all(_keeps_digits(number, gradient) for gradient in gradients):
            gradients = None  # before others are made
            with without_autocast(factor):
                _, gradients = kernel(ctx.saved_tensors[: len(needed)], number)
        elif number != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(number)
        return None, None, None, None, None, *(g if n else None for g, n in zip(gradients, needed, strict=True))


def _graph_is_kept() -> bool:
    """Whether the backward pass that is under way may be followed by another; where torch cannot say, it may."""
    is_kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return is_kept is None or is_kept()


def _keeps_digits(factor: float, gradient: Tensor | None) -> bool:
    """Whether a product with the factor is as right as if the factor had been in before the gradient was rounded."""
    return gradient is None or gradient.dtype in FULL or abs(math.frexp(factor)[0]) in (0.0, 0.5)


def _differentiated(
    plain: Callable[..., Tensor], tensors: Sequence[Tensor], needed: Sequence[bool], factor: Tensor
) -> Gradients:
    """The gradients of the plain form, which can be differentiated again."""
    creates_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Of inputs that are one tensor, or of which one is made of another, each must have its own share alone.
        views = [tensor.view_as(tensor) for tensor in tensors]
        value = plain(*views)
        wanted = [view for view, is_needed in zip(views, needed, strict=True) if is_needed]
        found = iter(torch.autograd.grad(value, wanted, factor, create_graph=creates_graph, allow_unused=True))
    return [next(found) if is_needed else None for is_needed in needed]


def block_size(tensor: Tensor, num_rooms: int) -> int:
    """How many elements of a tensor a block has at most, unless a single item has more.

    All that a kernel has room for, `num_rooms` times a block, is a sixteenth of the tensor at most.
    """
    return max(SMALLEST_BLOCK, min(LARGEST_BLOCK, tensor.numel() // max(16 * num_rooms, 1)))


class Block:
    """A part of some tensors of one shape, and of tensors that lack only the class axis.

    With a class axis, parts are read as `(outer, classes, inner)` and `(outer, inner)`, or without the inner axis where
    the classes lie last; without one, as `(elements,)`.
    """

    def __init__(self, tensors: Sequence[Tensor | None], items: Sequence[Tensor | None], place: int | None) -> None:
        self._tensors, self._items = tensors, items
        first = tensors[0]
        assert first is not None
        shape = first.shape
        self.shape: tuple[int, ...] = (first.numel(),)
        self.item_shape: tuple[int, ...] = self.shape
        if place is not None:
            outer, inner = math.prod(shape[:place]), math.prod(shape[place + 1 :])
            self.shape = (outer, shape[place]) if inner == 1 else (outer, shape[place], inner)
            self.item_shape = (outer,) if inner == 1 else (outer, inner)

    def tensor(self, index: int, room: Workspace | None = None) -> Tensor:
        """One of the tensors, which must not be written to; with a workspace, in its dtype."""
        found = self._tensors[index]
        assert found is not None
        found = found.reshape(self.shape)
        if room is None or found.dtype == room.dtype:
            return found
        return room(f"tensor {index}", self.shape).copy_(found)

    def item(self, index: int) -> Tensor | None:
        """One of the items, which must not be written to."""
        found = self._items[index]
        return None if found is None else found.reshape(self.item_shape)

    def buffer(self, index: int, room: Workspace) -> Tensor:
        """Room for numbers of a tensor: its own memory, where that has the workspace's dtype and can be seen so."""
        found = self._tensors[index]
        if found is not None and found.dtype == room.dtype:
            with contextlib.suppress(RuntimeError):
                return found.view(self.shape)
        return room("buffer", self.shape)

    def store(self, index: int, buffer: Tensor) -> None:
        """Puts what a `buffer` holds into the tensor."""
        found = self._tensors[index]
        if found is not None and found.data_ptr() != buffer.data_ptr():
            found.copy_(buffer.view(found.shape))


class Workspace:
    """Memory that all blocks of a kernel use again.

    To allocate it anew for each block would take longer than most of what is computed in it, since the system gives
    fresh pages one by one.
    """

    def __init__(self, like: Tensor) -> None:
        self.dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._device = like.device
        self._memory: dict[str, Tensor] = {}
        self._rooms: dict[Any, Tensor] = {}

    def __call__(self, name: str, shape: Sequence[int]) -> Tensor:
        """An array for what `name` says, which holds anything; smaller ones of that name are parts of larger ones."""
        key = name, tuple(shape)
        found = self._rooms.get(key)
        if found is None:
            size, memory = math.prod(shape), self._memory.get(name)
            if memory is None or len(memory) < size:
                memory = self._memory[name] = torch.empty(size, dtype=self.dtype, device=self._device)
            found = self._rooms[key] = memory[:size].view(key[1])
        return found


def blocks(
    tensors: Sequence[Tensor | None],
    items: Sequence[Tensor | None] = (),
    axis: int | None = None,
    num_rooms: int = 0,
    size: int | None = None,
) -> Iterator[Block]:
    """The blocks of tensors, in the order in which the first lies in memory.

    Args:
        tensors: of one shape; the first is no None.
        items: of that shape without its class axis.
        axis: the class axis, along which nothing is cut; None where each element stands for itself.
        num_rooms: how many arrays of a block's size the kernel needs besides.
        size: the most elements of a block, where these tensors are themselves parts of others.
    """
    first = tensors[0]
    assert first is not None
    order = sorted(range(first.ndim), key=lambda d: -first.stride()[d] if first.shape[d] > 1 else 0)
    place = None if axis is None else order.index(axis)
    rest = [d - (axis is not None and d > axis) for d in order if d != axis]
    yield from _cut(
        [None if tensor is None else tensor.permute(order) for tensor in tensors],
        [None if item is None else item.permute(rest) for item in items],
        place,
        block_size(first, num_rooms) if size is None else size,
    )


# Computes a block: gives its part of the sum and, if there is a factor, stores the gradient times that as tensor 1.
OfBlock = Callable[[Block, "float | None", Workspace], float]


def kernel_of_blocks(
    of_block: OfBlock,
    others: Sequence[Tensor | None] = (),
    items: Sequence[Tensor | None] = (),
    axis: int | None = None,
    *,
    num_rooms: int = 0,
    in_place: bool = False,
) -> Kernel:
    """The kernel of a sum over blocks of one input.

    Args:
        of_block: computes a block, of which the input is tensor 0, the gradient 1, and the others follow.
        others: as the tensors of `blocks`.
        items: as in `blocks`.
        axis: as in `blocks`.
        num_rooms: as in `blocks`, where the input has full precision, and a gradient whose memory can be used.
        in_place: whether the gradient takes the place of the input.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        (inputs,) = tensors
        gradient = None if factor is None else inputs if in_place else torch.empty_like(inputs)
        # Half precision needs room for input and gradient in float32; without a gradient, there is room for one.
        rooms = num_rooms + (0 if inputs.dtype in FULL else 2) + (gradient is None)
        parts = blocks([inputs, gradient, *others], items, axis, num_rooms=rooms)
        room = Workspace(inputs)
        return sum(of_block(block, factor, room) for block in parts), [gradient]

    return kernel


def _cut(
    tensors: Sequence[Tensor | None], items: Sequence[Tensor | None], place: int | None, size: int
) -> Iterator[Block]:
    first = tensors[0]
    assert first is not None
    along = 1 if place == 0 else 0
    if first.numel() <= size or first.ndim <= along:
        yield Block(tensors, items, place)
        return
    each = first.numel() // first.shape[along]
    # Of items, the axis after the class axis is the first.
    if each > size and first.ndim > along + 1:
        left = None if place is None else max(place - 1, 0)
        for index in range(first.shape[along]):
            yield from _cut(
                [None if tensor is None else tensor.select(along, index) for tensor in tensors],
                [None if item is None else item.select(0, index) for item in items],
                left,
                size,
            )
        return
    step = max(size // each, 1)
    for start in range(0, first.shape[along], step):
        length = min(step, first.shape[along] - start)
        yield Block(
            [None if tensor is None else tensor.narrow(along, start, length) for tensor in tensors],
            [None if item is None else item.narrow(0, start, length) for item in items],
            place,
        )
