"""Several processes: the samples of all ranks are compared with each other, and the items of all ranks are counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, distributed, nn

# `torch.compiler.disable` imports the compiler where it decorates, which takes a second; this one where it is called.
from torch._compile import _disable_dynamo

from losskit.modules.base import Loss
from losskit.modules.checking import check_option

if TYPE_CHECKING:
    from losskit.modules.multi_task import MultiTaskLoss
    from losskit.modules.plan import Plan

# What travels between ranks.
_DTYPES = (torch.float32, torch.float64, torch.int64)


def num_ranks(group: distributed.ProcessGroup | None = None) -> int:
    """How many ranks train together: 1 where torch.distributed is not initialised."""
    return distributed.get_world_size(group) if distributed.is_available() and distributed.is_initialized() else 1


def device_of_ranks(group: distributed.ProcessGroup | None = None) -> torch.device:
    """A device between which ranks can send, the CPU if they can: the same on all, whatever a rank has at hand."""
    # Such as "cpu:gloo,cuda:nccl"
    kinds = [part.split(":")[0] for part in distributed.get_backend_config(group).split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], getattr(torch, kinds[0]).current_device())


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

    def nothing(self, device: torch.device) -> tuple[Tensor, ...]:
        """What `forward` takes, without any samples: here an embedding and ids."""
        return torch.zeros(0, 1, device=device), torch.zeros(0, dtype=torch.long, device=device)

    def of_other_ranks(self, device: torch.device | None) -> Tensor | None:
        """The loss where this rank has nothing for it, but others may, which wait for it to take part; else None.

        The device is that of the model, where it is known.
        """
        if not (self.gather and self.training and torch.is_grad_enabled() and num_ranks() > 1):
            return None
        value: Tensor = self(*self.nothing(device or device_of_ranks()))
        return value if value.requires_grad else None  # no rank has anything


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
    return _gathered(tensors, by_halves) if torch.is_grad_enabled() and num_ranks() > 1 else tensors


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


class Counts(dict[str, Tensor]):
    """What each loss is divided by in each micro-batch of one step: the `normalizers` of a criterion."""

    def __init__(
        self,
        entries: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = (),
        num_batches: int = 1,
        divided_by: int = 1,
        totals: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(entries)
        # How many micro-batches the step has on this rank, and by what the training loop divides losses.
        self.num_batches = num_batches
        self.divided_by = divided_by
        # What there is of each loss in the whole batch.
        self.totals = totals

    @property
    def share(self) -> float:
        """The share of the batch in one micro-batch, times what the training loop takes off."""
        return self.divided_by / self.num_batches


def counts(
    criterion: MultiTaskLoss,
    batches: Iterable[Any],
    group: distributed.ProcessGroup | None = None,
    *,
    divided_by: int = 1,
    others: str = "refuse",
) -> Counts:
    """What losses are to be divided by, so that the gradient of one step is that of its whole batch.

    A step may consist of several micro-batches on each of several ranks, each with any number of items that count.
    With `criterion(predictions, targets, normalizers=counts)`, and a backward pass for each micro-batch, the gradients
    add up to what one process has for all of them together, if they are averaged over ranks, as
    DistributedDataParallel and FSDP do. The ranks send each other one number per loss, once per call, so all must call.

    Args:
        criterion: what `losskit.build` returned.
        batches: the targets of the micro-batches of one step on this rank, or pairs of predictions and targets, or of
            a DataLoader's inputs and targets: the first are looked at only where a loss takes no targets. A rank
            without any still takes part.
        group: the ranks over which gradients are averaged, if not all.
        divided_by: by what the training loop divides losses; that is the number of micro-batches where accelerate or
            Lightning accumulates gradients.
        others: `average` takes losses that are no means over items, such as dice, to be averaged over all micro-batches
            that have targets for them; this is not what one process has for the whole batch.

    Raises:
        TypeError: a loss is no mean over items, or its count does not follow from what is given.
    """
    check_option("others", others, ("refuse", "average"))
    criterion = getattr(criterion, "module", criterion)  # what data parallelism may have wrapped
    if isinstance(batches, (Mapping, Tensor)) or (isinstance(batches, tuple) and len(batches) == 2):
        raise TypeError("counts takes all micro-batches of a step: a list of targets, or of pairs (inputs, targets)")
    if divided_by < 1:
        raise ValueError(f"divided_by= must be 1 or more, got {divided_by}")
    kinds = criterion.kinds
    if others == "refuse":
        _refuse_others(kinds)
    needs_predictions = any(plan.kind == "mean" and not plan.lookup.targets for plan in criterion.plans)
    found = [_counted(criterion, batch, needs_predictions) for batch in batches]
    total = _over_ranks(_added_up(found, len(kinds)), group)
    share = num_ranks(group) * divided_by
    entries = {}
    for (key, kind), count in zip(kinds.items(), total.unbind(), strict=True):
        # A sum is that of the whole batch, however many items that has.
        whole = torch.ones_like(count) if kind == "sum" else count.clamp_min(criterion.least_counts.get(key, 0))
        entries[key] = whole / share
    # A rank without batches runs one of no rows.
    return Counts(entries, max(len(found), 1), divided_by, dict(zip(kinds, total.unbind(), strict=True)))


def _refuse_others(kinds: Mapping[str, str]) -> None:
    refused = [key for key, kind in kinds.items() if kind not in ("mean", "sum")]
    if refused:
        raise TypeError(
            f"{', '.join(refused)}: no mean over items, so no count makes parts of a batch add up to the whole; leave "
            'it to a criterion of its own that has whole batches, or take the average over parts: others="average". A '
            "loss of your own that is such a mean derives from losskit.modules.AdditiveLoss"
        )


def _counted(criterion: MultiTaskLoss, batch: Any, needs_predictions: bool) -> list[Tensor]:
    """What each loss counts in one micro-batch: the items of a mean, else whether there is anything."""
    predictions = None
    if isinstance(batch, (tuple, list)):
        if len(batch) != 2:
            raise TypeError(f"a batch is its targets, or a pair of predictions and targets, got {len(batch)} of them")
        predictions, batch = batch
    found = criterion.counts(batch, predictions if needs_predictions else None)
    pairs = zip(criterion.plans, criterion.losses, strict=True)
    return [
        found[plan.key] if plan.key in found else torch.tensor(float(_is_there(plan, loss, batch)))
        for plan, loss in pairs
    ]


def _is_there(plan: Plan, loss: nn.Module, targets: Any) -> bool:
    """Whether a batch has anything for a loss; what is compared over ranks may be on another one."""
    given = {None: targets} if plan.feature is None else targets or {}
    is_absent = bool(plan.lookup.targets) and plan.lookup.is_absent(given, given)
    return not is_absent or (isinstance(loss, GatheringLoss) and loss.gather)


def _added_up(found: Sequence[Sequence[Tensor]], num_losses: int) -> Tensor:
    """The sums over micro-batches, where the counts are; what is empty is on the CPU."""
    device = next((x.device for counted in found for x in counted if x.device.type != "cpu"), torch.device("cpu"))
    dtype = torch.float32 if device.type == "mps" else torch.float64
    total = torch.zeros(num_losses, dtype=dtype, device=device)
    for counted in found:
        total += torch.stack([count.to(device, dtype) for count in counted])
    return total


def _over_ranks(total: Tensor, group: distributed.ProcessGroup | None) -> Tensor:
    if num_ranks(group) == 1:
        return total
    sent = total.to(device_of_ranks(group), torch.float64)
    distributed.all_reduce(sent, group=group)
    return sent.to(total)
