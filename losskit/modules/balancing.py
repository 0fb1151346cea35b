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
        return self.training and torch.is_grad_enabled()

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
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
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
    values, factors = stacked(losses, weights)
    keywords: dict[str, Any] = {}
    if balancing.wants_gradients:
        keywords["gram"] = _gram(balancing, losses, shared, present)
    elif balancing.needs_gradients:
        keywords["gram"] = None
    there = torch.tensor(present, device=values.device)
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
    return total


def stacked(losses: Sequence[Tensor], weights: Sequence[float | Tensor]) -> tuple[Tensor, Tensor]:
    """Losses and weights as one tensor each, of at least float32, whatever autocast or the model made of them."""
    values = promoted(torch.stack([loss.float() if loss.element_size() < 4 else loss for loss in losses]))
    if any(isinstance(weight, Tensor) for weight in weights):
        factors = [weight if isinstance(weight, Tensor) else values.new_tensor(weight) for weight in weights]
        return values, torch.stack([factor.to(values) for factor in factors])
    return values, torch.tensor(weights, dtype=values.dtype, device=values.device)


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
    counts = [here if n is None else n for here, n in zip(present, normalizers, strict=True)]
    return torch.stack([torch.as_tensor(count, device=present.device) > 0 for count in counts])


def _alike_on_ranks(values: Tensor, present: Tensor, is_normalized: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """The mean of each loss over ranks, with the gradient of this rank alone; and which tasks any rank has.

    A loss that was divided by the count of all ranks is 0 on those without the task; else these do not count.
    """
    with torch.no_grad():
        counted = present | torch.tensor(is_normalized, device=present.device)
        sums = torch.stack([torch.where(present, values, 0.0), present.to(values), counted.to(values)])
        torch.distributed.all_reduce(sums)
        total, anywhere, count = sums
        mean = total / count.clamp_min(1)
    return mean + (values - values.detach()), anywhere > 0


@_disable_dynamo
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
            "which these are: call criterion.share(model.encoder.parameters()), or, as its paper does, "
            "criterion.share(the_last_shared_layer.parameters())"
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
    return type(balancing).__name__
