"""Several processes: samples of all ranks are compared with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, distributed

# `torch.compiler.disable` imports the compiler where it decorates, which takes a second; this one where it is called.
from torch._compile import _disable_dynamo

from losskit.modules.base import Loss

# What travels between ranks.
_DTYPES = (torch.float32, torch.float64, torch.int64)


def has_several_ranks() -> bool:
    """Whether torch.distributed is initialised, with more than one rank."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class GatheringLoss(Loss):
    """A loss that compares the samples of a batch with each other; with `gather`, those of all ranks.

    The function of a subclass takes `current_settings()`.
    """

    distributed_settings: ClassVar[tuple[str, ...]] = ("gather",)

    def __init__(self, *, gather: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.gather = gather

    def current_settings(self) -> dict[str, Any]:
        """The settings, where `gather` is off in eval mode.

        Ranks may hold different numbers of batches to evaluate, and would wait for each other for ever.
        """
        return {**self.settings(), "gather": self.gather and self.training}


def gathered(*tensors: Tensor, by_halves: bool = False) -> tuple[Tensor, ...]:
    """The rows that all ranks hold, in the order of the ranks; with a single rank, the tensors as they are.

    The backward pass adds up the gradients that the ranks have of a row. Where each rank computes the same loss of all
    rows, the mean of the ranks' gradients, which DistributedDataParallel takes, is thus the gradient of that loss.
    Where gradients are switched off nothing is gathered, for the reason of `GatheringLoss.current_settings`.

    Args:
        tensors: `(rows,)` or `(rows, columns)`; each may have other numbers of rows, also none, on each rank.
        by_halves: whether the first halves of all ranks come before the second ones.

    Raises:
        ValueError: rows of different ranks have different shapes or dtypes.
    """
    return _gathered(tensors, by_halves) if torch.is_grad_enabled() and has_several_ranks() else tensors


class _Rows(NamedTuple):
    """What the ranks must know of each other's rows; `columns` is -1 for rows that are single numbers."""

    number: int
    columns: int
    dtype: int
    requires_grad: int

    def __str__(self) -> str:
        shape = (self.number,) if self.columns < 0 else (self.number, self.columns)
        return f"{shape} {str(_DTYPES[self.dtype]).removeprefix('torch.')}"


@_disable_dynamo
def _gathered(tensors: Sequence[Tensor], by_halves: bool) -> tuple[Tensor, ...]:
    tensors = [_travelling(tensor) for tensor in tensors]
    own = torch.tensor([[_rows_of(tensor) for tensor in tensors]], device=tensors[0].device)
    found = _from_all(own, [1] * distributed.get_world_size()).tolist()
    rows_of_ranks = [[_Rows(*rows) for rows in of_tensor] for of_tensor in zip(*found, strict=True)]
    numbers = [[rows.number for rows in of_ranks] for of_ranks in rows_of_ranks]
    fitting = [_fitting(tensor, of_ranks) for tensor, of_ranks in zip(tensors, rows_of_ranks, strict=True)]
    whole: tuple[Tensor, ...] = _Gather.apply(numbers, *fitting)  # type: ignore[no-untyped-call]
    return tuple(map(_halves_together, whole, numbers)) if by_halves else whole


def _travelling(tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.long()
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _rows_of(tensor: Tensor) -> _Rows:
    columns = -1 if tensor.ndim == 1 else tensor.shape[1]
    return _Rows(len(tensor), columns, _DTYPES.index(tensor.dtype), int(tensor.requires_grad))


def _fitting(tensor: Tensor, of_ranks: Sequence[_Rows]) -> Tensor:
    """The tensor as all ranks have it: one without rows may have another shape."""
    with_rows = [rows for rows in of_ranks if rows.number] or list(of_ranks[:1])
    if len({rows[1:3] for rows in with_rows}) > 1:
        told = ", ".join(f"{rows} on rank {rank}" for rank, rows in enumerate(of_ranks))
        raise ValueError(f"gather takes the samples of all ranks together, but their shapes do not fit: {told}")
    if len(tensor) == 0:
        columns = with_rows[0].columns
        tensor = tensor.reshape(0) if columns < 0 else tensor.reshape(0, columns)
        tensor = tensor.to(_DTYPES[with_rows[0].dtype])
    # Where one rank needs a gradient, all take part in its backward pass.
    needs_gradient = any(rows.requires_grad for rows in of_ranks)
    return tensor.detach().requires_grad_() if needs_gradient and not tensor.requires_grad else tensor


def _from_all(tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    """The rows of all ranks, of which `numbers` says how many there are on each; they are sent in equal shapes."""
    padded = tensor.new_zeros(max(numbers), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    parts = [torch.empty_like(padded) for _ in numbers]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:number] for part, number in zip(parts, numbers, strict=True)])


def _halves_together(tensor: Tensor, numbers: Sequence[int]) -> Tensor:
    halves = torch.split(tensor, [number // 2 for number in numbers for _ in range(2)])
    return torch.cat([*halves[::2], *halves[1::2]])


class _Gather(torch.autograd.Function):
    """The rows of all ranks; backward, the sum of the gradients that all ranks have of the own rows."""

    @staticmethod
    def forward(ctx: Any, numbers: Sequence[Sequence[int]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.numbers = numbers
        found = tuple(map(_from_all, tensors, numbers))
        ctx.mark_non_differentiable(*(t for t, asks in zip(found, ctx.needs_input_grad[1:], strict=True) if not asks))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        asking = [i for i, asks in enumerate(ctx.needs_input_grad[1:]) if asks]
        sums = _SumOfOwn.apply([ctx.numbers[i] for i in asking], *(gradients[i] for i in asking))  # type: ignore[no-untyped-call]
        found = dict(zip(asking, sums, strict=True))
        return None, *(found.get(i) for i in range(len(gradients)))


class _SumOfOwn(torch.autograd.Function):
    """The sums over ranks of the own rows; backward, the gradients of all ranks for theirs, so derivatives go on."""

    @staticmethod
    def forward(ctx: Any, numbers: Sequence[Sequence[int]], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.numbers = numbers
        rank = distributed.get_rank()
        # One message for all; not every backend can sum and scatter at once.
        total = torch.cat([tensor.flatten() for tensor in tensors])
        distributed.all_reduce(total)
        sums = torch.split(total, [tensor.numel() for tensor in tensors])
        return tuple(
            torch.split(whole.view_as(tensor), list(number))[rank].clone()
            for whole, tensor, number in zip(sums, tensors, numbers, strict=True)
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_Gather.apply(ctx.numbers, *gradients)  # type: ignore[no-untyped-call]
