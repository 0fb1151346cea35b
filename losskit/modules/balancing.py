"""What turns the losses of several tasks into the one value to minimise: the base of all strategies, and their call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

# `torch.compiler.disable` imports the compiler where it decorates, which takes a second; this one where it is called.
from torch._compile import _disable_dynamo

from losskit.modules.distributed import num_ranks
from losskit.modules.shapes import without_autocast

if TYPE_CHECKING:
    from typing_extensions import Self


class LossBalancing(nn.Module):
    """Turns the losses of all tasks into the one value to minimise.

    A subclass registers by `losskit.register_loss_balancing`; its settings are keyword arguments of the constructor.
    What it keeps from step to step stands in parameters or persistent buffers, so that training resumes exactly, and
    changes only while it `is_learning`.
    """

    # Whether `forward` takes `gram`, the inner products of the tasks' gradients.
    needs_gradients: ClassVar[bool] = False
    # Whether the totals of the parts of a batch add up to the total of the whole batch.
    is_additive: ClassVar[bool] = False
    # What configs call it.
    name: str | None = None
    _takes: ClassVar[frozenset[str]] = frozenset()
    _settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, num_tasks: int) -> None:
        super().__init__()
        if num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1, got {num_tasks}")
        self.num_tasks = num_tasks

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._takes = frozenset(inspect.signature(cls.forward).parameters)
        cls._settings = tuple(
            name for name, p in inspect.signature(cls.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY
        )

    def forward(self, losses: Tensor, weights: Tensor) -> Tensor:
        """The total.

        A subclass may also take these, as keywords: `gram` (tasks, tasks), the inner products of the gradients of the
        losses, or None where there are none, as in evaluation; `present` (tasks,), False for tasks that the batch has
        nothing of, whose loss is 0; `share`, the share of the batch that these losses are of.

        Args:
            losses: (tasks,), the unweighted values with their graph.
            weights: (tasks,), the weights of the config.
        """
        raise NotImplementedError

    def step(self) -> None:
        """What is to be done after each step of the optimizer."""

    @property
    def is_learning(self) -> bool:
        """Whether state may change: in training, where gradients are recorded."""
        is_transformed = not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
        return self.training and torch.is_grad_enabled() and not is_transformed

    @property
    def wants_gradients(self) -> bool:
        """Whether the next call needs `gram`."""
        return self.needs_gradients and self.is_learning

    def extra_repr(self) -> str:
        settings = (f"{name}={getattr(self, name)!r}" for name in self._settings if hasattr(self, name))
        return ", ".join([f"num_tasks={self.num_tasks}", *settings])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `.half()` would round sums and counts until they no longer grow.
        before = dict(self._buffers)
        weights = {name: parameter.data for name, parameter in self._parameters.items() if parameter is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        # Nor could a weight learn by steps that are smaller than a digit of it.
        for name, parameter in self._parameters.items():
            if parameter is not None and parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = weights[name].to(parameter.device)
        return self


class CountingBalancing(LossBalancing):
    """Counts something that decides what is to be done in Python: a buffer alone would have to be waited for."""

    counter: Tensor

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.count = 0
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))

    def count_one(self) -> None:
        """Counts one more, here and in the buffer that is saved."""
        self.count += 1
        self.counter.fill_(self.count)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}counter" in state_dict:
            self.count = int(self.counter)


def balanced(
    balancing: LossBalancing,
    losses: Sequence[Tensor],
    weights: Sequence[float | Tensor],
    *,
    shared: Sequence[Tensor] | None,
    present: Sequence[bool],
    share: float | Tensor = 1.0,
    normalizers: Sequence[Tensor | float | None] | None = None,
) -> Tensor:
    """The total of the losses of one batch, or of the `share` of it that this call sees.

    Among several ranks of torch.distributed, all weigh by the same: by the mean of their losses where the total is no
    sum over parts of a batch, and by the mean of their gradients.

    Args:
        balancing: the strategy.
        losses: the unweighted losses, one per task.
        weights: the weights of the config, as numbers or scalar tensors.
        shared: the parameters that the tasks share, or what the model computes for all of them, by whose gradients some
            strategies weigh.
        present: False for tasks that the batch has nothing of, whose loss is an attached 0.
        share: the share of the batch that these losses are of.
        normalizers: by what the losses were divided, where that is the count of the whole batch, over all its parts and
            all ranks; it is 0 for a task that the whole batch has nothing of.

    Raises:
        ValueError: the strategy needs what is not there, or cannot see a batch in parts.
    """
    if not balancing.is_additive and (isinstance(share, Tensor) or share != 1):
        raise ValueError(
            f"{_name(balancing)} weighs by the losses of the whole batch, so that the parts of a batch do not add up; "
            "give it whole batches, or balance by none, uncertainty or dwa"
        )
    compute = _apart if balancing.needs_gradients else _balanced
    return compute(balancing, losses, weights, shared, present, share, normalizers)


def _balanced(
    balancing: LossBalancing,
    losses: Sequence[Tensor],
    weights: Sequence[float | Tensor],
    shared: Sequence[Tensor] | None,
    present: Sequence[bool],
    share: float | Tensor,
    normalizers: Sequence[Tensor | float | None] | None,
) -> Tensor:
    values, factors = stacked(losses, weights)
    keywords: dict[str, Any] = {}
    if balancing.wants_gradients:
        keywords["gram"] = _gram(balancing, losses, shared, present)
    elif balancing.needs_gradients:
        keywords["gram"] = None
    there = _filled(present, values.device, torch.bool)
    whole = [None] * len(losses) if normalizers is None else normalizers
    if balancing.is_additive:
        # Ranks may have different numbers of parts, and must not wait for each other here.
        there = _in_whole_batch(there, whole)
    elif balancing.is_learning and num_ranks() > 1:
        values, there = _alike_on_ranks(values, there, [normalizer is not None for normalizer in whole])
    if "present" in balancing._takes:
        keywords["present"] = there
    if "share" in balancing._takes:
        keywords["share"] = share
    total: Tensor = balancing(values, factors, **keywords)
    if total.ndim:
        raise ValueError(f"{_name(balancing)} must return one number, got a tensor of shape {tuple(total.shape)}")
    return total


# Outside of the graph where the rest is compiled, for gradients cannot be taken within it.
_apart = _disable_dynamo(_balanced)


def stacked(losses: Sequence[Tensor], weights: Sequence[float | Tensor]) -> tuple[Tensor, Tensor]:
    """Losses and weights as one tensor each, of at least float32, whatever autocast or the model made of them."""
    # What is absent may be on the CPU.
    device = next((loss.device for loss in losses if loss.device.type != "cpu"), losses[0].device)
    values = torch.stack([promoted(loss).to(device) for loss in losses])
    return values, _filled(weights, values.device, values.dtype)


def _filled(numbers: Sequence[float | Tensor], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers as a tensor, written by the device itself: a copy from the host would wait for the device."""
    first = numbers[0]
    if not any(isinstance(number, Tensor) for number in numbers) and all(number == first for number in numbers):
        return torch.full((len(numbers),), float(first), device=device, dtype=dtype)
    tensors = [
        number.to(device, dtype) if isinstance(number, Tensor) else torch.full((), number, device=device, dtype=dtype)
        for number in numbers
    ]
    return torch.stack(tensors)


def promoted(losses: Tensor) -> Tensor:
    """The losses in float32, or float64 where they are."""
    return losses.float() if losses.element_size() < 4 else losses


def over_ranks(tensor: Tensor) -> Tensor:
    """The mean over all ranks."""
    torch.distributed.all_reduce(tensor)
    return tensor / num_ranks()


def _in_whole_batch(present: Tensor, normalizers: Sequence[Tensor | float | None]) -> Tensor:
    """Which tasks the whole batch has, as far as the counts of it say so; else those of this part."""
    if all(normalizer is None for normalizer in normalizers):
        return present
    # Compared with a tensor of the device, a number of the host, in a tensor or not, comes along without a copy.
    zero = torch.zeros((), device=present.device)
    pairs = zip(present, normalizers, strict=True)
    return torch.stack([here if count is None else zero < count for here, count in pairs])


def _alike_on_ranks(values: Tensor, present: Tensor, is_normalized: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """The mean of each loss over ranks, with the gradient of this rank alone; and which tasks any rank has.

    A loss that was divided by the count of all ranks is 0 on those without the task; else these do not count.
    """
    with torch.no_grad():
        counted = present | _filled(is_normalized, present.device, torch.bool)
        # In one dtype on all ranks, of which one may have nothing but what is absent.
        dtype = torch.float32 if values.device.type == "mps" else torch.float64
        sums = torch.stack([torch.where(present, values, 0.0).to(dtype), present.to(dtype), counted.to(dtype)])
        torch.distributed.all_reduce(sums)
        total, anywhere, count = sums
        mean = (total / count.clamp_min(1)).to(values.dtype)
    return mean + (values - values.detach()), anywhere > 0


def _gram(
    balancing: LossBalancing, losses: Sequence[Tensor], shared: Sequence[Tensor] | None, present: Sequence[bool]
) -> Tensor:
    """The inner products of the losses' gradients with respect to what is shared, those of all ranks taken together."""
    leaves = _required(balancing, shared)
    rows = _gradients(balancing, losses, leaves, present)
    # Of parameters each rank has a part of the gradient; of a layer's output, the gradients of rows of its own.
    are_parameters = all(leaf.is_leaf for leaf in leaves)
    if num_ranks() > 1 and are_parameters:
        rows = over_ranks(rows)
    with torch.no_grad(), without_autocast(rows):
        gram = rows @ rows.mT
    if num_ranks() > 1 and not are_parameters:
        gram = over_ranks(gram) / num_ranks()
    return gram


def _required(balancing: LossBalancing, shared: Sequence[Tensor] | None) -> list[Tensor]:
    """What is shared and has gradients."""
    if shared is None:
        raise ValueError(
            f"{_name(balancing)} weighs by the gradients of the parameters that the tasks share, but nobody has said "
            "which these are: call criterion.share(model.encoder), or, which is cheaper and often enough, give it the "
            "last layer that they share"
        )
    if any(hasattr(tensor, "placements") for tensor in shared):
        # A DTensor of FSDP, whose gradient comes to be only in the backward pass of the whole model.
        raise ValueError(
            f"{_name(balancing)} weighs by gradients, and those of sharded parameters cannot be taken per task; share "
            "what the encoder computes: criterion(predictions, targets, shared=hidden)"
        )
    leaves = [tensor for tensor in shared if tensor.requires_grad]
    if not leaves:
        raise ValueError(f"{_name(balancing)} weighs by gradients, but nothing that is shared requires one")
    return leaves


def _gradients(
    balancing: LossBalancing, losses: Sequence[Tensor], leaves: Sequence[Tensor], present: Sequence[bool]
) -> Tensor:
    """A row per loss: its gradient with respect to all that is shared, on this rank."""
    dtype = torch.float64 if any(leaf.dtype == torch.float64 for leaf in leaves) else torch.float32
    rows = torch.zeros(len(losses), sum(leaf.numel() for leaf in leaves), dtype=dtype, device=leaves[0].device)
    is_reached = False
    for row, loss, is_there in zip(rows, losses, present, strict=True):
        if not (is_there and loss.requires_grad):
            continue
        start = 0
        gradients = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                row[start : start + leaf.numel()] = gradient.detach().flatten()
                is_reached = True
            start += leaf.numel()
    # A rank may have a batch that no task is in.
    if not is_reached and any(present) and num_ranks() == 1:
        raise ValueError(f"{_name(balancing)} weighs by gradients, but no loss depends on what is shared")
    return rows


def _name(balancing: LossBalancing) -> str:
    return balancing.name or type(balancing).__name__
