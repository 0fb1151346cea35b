"""Strategies that balance losses by their values alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from losskit.modules.balancing import CountingBalancing, LossBalancing, over_ranks, promoted
from losskit.modules.distributed import num_ranks
from losskit.schema.balancing import (
    DWABalancingConfig,
    FAMOBalancingConfig,
    LogTransformBalancingConfig,
    NoneBalancingConfig,
    ParetoMTLBalancingConfig,
    UncertaintyBalancingConfig,
)
from losskit.strategies import register_loss_balancing

if TYPE_CHECKING:
    from typing_extensions import Self

# Below this, the logarithm of 1 + loss is continued by its tangent.
_LOWEST = -0.5
# What FAMO adds to a loss before it takes the logarithm.
_EPSILON = 1e-8


@register_loss_balancing("none", schema=NoneBalancingConfig)
class NoneBalancing(LossBalancing):
    r"""The sum of the losses, each times its weight.

    $L = \sum_i w_i L_i$

    Source: Ludwig's `none`.

    >>> NoneBalancing(2)(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5]))
    tensor(3.5000)
    """

    is_additive = True

    def forward(self, losses: Tensor, weights: Tensor) -> Tensor:
        """The total; see `LossBalancing`."""
        return (weights * promoted(losses)).sum()


@register_loss_balancing("log_transform", schema=LogTransformBalancingConfig)
class LogTransformBalancing(LossBalancing):
    r"""The logarithms of the losses, so that those on a large scale do not drown the others.

    $L = \sum_i w_i \log(1 + L_i)$. Below $-1/2$, where losses come that can be negative, the tangent takes the
    logarithm's place, so that they stay finite.

    Source: Ludwig's `log_transform`; after Lin et al., "Dual-Balancing for Multi-Task Learning", 2023, which takes
    $\log(\epsilon + L_i)$ and also evens out the gradients' norms.

    >>> LogTransformBalancing(2)(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    tensor(1.3863)
    """

    def forward(self, losses: Tensor, weights: Tensor) -> Tensor:
        """The total; see `LossBalancing`."""
        losses = promoted(losses)
        slope = 1 / (1 + _LOWEST)
        below = (losses - _LOWEST).clamp(max=0)
        return (weights * (torch.log1p(losses.clamp(min=_LOWEST)) + slope * below)).sum()


@register_loss_balancing("uncertainty", schema=UncertaintyBalancingConfig)
class UncertaintyBalancing(LossBalancing):
    r"""Learns how uncertain each task is, and weighs it by the inverse of that.

    $L = \sum_i w_i \left(e^{-s_i} L_i + s_i/2\right)$ with learned $s_i = \log\sigma_i^2$, from 0, within -20 and 20.

    Source: Ludwig's `uncertainty`; Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for
    Scene Geometry and Semantics", 2018. It is the paper's form for classification, $L/\sigma^2 + \log\sigma$, for every
    loss; the one for squared errors has $1/(2\sigma^2)$ instead, which `weight` and the loss's own factor decide here.

    >>> UncertaintyBalancing(2)(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5]))
    tensor(3.5000, grad_fn=<SumBackward0>)
    """

    is_additive = True

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        self.log_variances = nn.Parameter(torch.zeros(num_tasks))

    def forward(
        self, losses: Tensor, weights: Tensor, *, present: Tensor | None = None, share: float | Tensor = 1.0
    ) -> Tensor:
        """The total; see `LossBalancing`. Each part of a batch bears its share of the term without a loss."""
        losses = promoted(losses)
        spread = self.log_variances.to(losses.dtype).clamp(-20, 20)
        price = share * spread / 2
        if present is not None:
            price = torch.where(present, price, 0.0)
        return (weights * (torch.exp(-spread) * losses + price)).sum()


@register_loss_balancing("pareto_mtl", schema=ParetoMTLBalancingConfig)
class ParetoMTLBalancing(LossBalancing):
    r"""Steers to the trade-off between the losses that a vector of preferences asks for.

    $L = (1 - t) \sum_i p_i w_i L_i + t \max_i p_i w_i L_i$, with the preferences $p$ divided by their sum and $t$ =
    `tchebycheff_weight`. The largest preferred loss pulls the others to $L_i \propto 1 / (p_i w_i)$; other than a
    sum, it reaches trade-offs on concave parts of the front too.

    Source: Ludwig's `pareto_mtl`. It is the scalarisation of Tchebycheff, augmented by the sum (Miettinen, "Nonlinear
    Multiobjective Optimization", 1999), and not the gradient algorithms of Lin et al., "Pareto Multi-Task Learning",
    2019, and of Mahapatra and Rajan, "Multi-Task Learning with User Preferences", 2020, which share its aim.

    >>> ParetoMTLBalancing(2, preference_vector=[3.0, 1.0])(torch.tensor([2.0, 2.0]), torch.ones(2))
    tensor(1.7500)
    """

    preferences: Tensor

    def __init__(
        self,
        num_tasks: int,
        *,
        preference_vector: Sequence[float] | None = None,
        tchebycheff_weight: float = 0.5,
    ) -> None:
        super().__init__(num_tasks)
        preferences = _per_task("preference_vector", preference_vector, num_tasks, 1.0)
        if (preferences < 0).any() or not preferences.any():
            raise ValueError(f"preference_vector must have numbers from 0 up, one above 0, got {preference_vector}")
        self.preference_vector = preference_vector
        self.tchebycheff_weight = tchebycheff_weight
        # The config's, so that they are not saved.
        self.register_buffer("preferences", preferences / preferences.sum(), persistent=False)

    def forward(self, losses: Tensor, weights: Tensor, *, present: Tensor | None = None) -> Tensor:
        """The total; see `LossBalancing`. A task that is absent is never the largest."""
        losses = promoted(losses)
        preferred = self.preferences.to(losses.dtype) * weights * losses
        if present is None:
            largest = preferred.amax()
        else:
            among = torch.where(present, preferred, -torch.inf).amax()
            largest = torch.where(present.any(), among, 0.0)
        return (1 - self.tchebycheff_weight) * preferred.sum() + self.tchebycheff_weight * largest


class _Averaging(LossBalancing):
    """Takes the mean of each loss over the calls of one step."""

    def __init__(self, num_tasks: int) -> None:
        super().__init__(num_tasks)
        # No buffers: they are this rank's own, where DistributedDataParallel would replace them by another's, and there
        # is nothing in them between steps, when checkpoints are written.
        self.sums = torch.zeros(num_tasks)
        self.counts = torch.zeros(num_tasks)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        device = fn(torch.zeros(())).device
        self.sums, self.counts = (torch.zeros(self.num_tasks, device=device) for _ in range(2))
        return self

    def record(self, losses: Tensor, present: Tensor | None, share: float | Tensor = 1.0) -> Tensor:
        """Adds losses; returns which are counted. What is not finite would spoil all that comes after it."""
        counted = torch.isfinite(losses) if present is None else present & torch.isfinite(losses)
        self.sums.add_(torch.where(counted, losses.detach(), 0.0))
        self.counts.add_(counted * share)
        return counted

    def forget(self) -> None:
        """Begins a new step."""
        self.sums.zero_()
        self.counts.zero_()


@register_loss_balancing("famo", schema=FAMOBalancingConfig)
class FAMOBalancing(_Averaging):
    r"""Learns weights by which all losses fall at the same rate, from their values alone.

    $L = c \sum_i w_i z_i \log D_i$ with $z = \mathrm{softmax}(\xi)$, $D_i = L_i - \min_i + 10^{-8}$, and
    $c = 1 / \sum_i z_i / D_i$ as a constant. The gradient of the learned $\xi$ is
    $J_{\mathrm{softmax}}^\top (\log D^{before} - \log D) + \gamma \xi$, so that a loss which has fallen less than
    the others from the step before gains weight. A loss below its `min_losses` counts as one that has come there.

    Source: Liu et al., "FAMO: Fast Adaptive Multitask Optimization", 2023. The paper compares the losses of one batch
    before and after the step: `update` does so. Without it, each batch is compared with the one before.

    >>> FAMOBalancing(2).eval()(torch.tensor([1.0, 1.0]), torch.ones(2)).abs() < 1e-6
    tensor(True)
    """

    floors: Tensor
    previous: Tensor
    is_known: Tensor

    def __init__(self, num_tasks: int, *, gamma: float = 0.01, min_losses: Sequence[float] | None = None) -> None:
        super().__init__(num_tasks)
        self.gamma = gamma
        self.min_losses = min_losses
        self.logits = nn.Parameter(torch.zeros(num_tasks))
        self.register_buffer("floors", _per_task("min_losses", min_losses, num_tasks, 0.0), persistent=False)
        self.register_buffer("previous", torch.zeros(num_tasks))
        self.register_buffer("is_known", torch.zeros(num_tasks, dtype=torch.bool))

    def forward(self, losses: Tensor, weights: Tensor, *, present: Tensor | None = None) -> Tensor:
        """The total; see `LossBalancing`."""
        losses = promoted(losses)
        logits = self.logits.to(losses.dtype)
        excess = self._excess(losses.detach())
        here = torch.ones_like(losses, dtype=torch.bool) if present is None else present
        shares = _softmax(logits.detach(), here)
        scale = 1 / (shares / excess).sum().clamp_min(torch.finfo(losses.dtype).tiny)
        # With the gradient of the logarithm also where a loss is below the least value that it was said to have.
        logarithms = torch.log(excess) + (losses - losses.detach()) / excess
        total = scale * (weights * shares * logarithms).sum()
        if not self.is_learning:
            return total
        with torch.no_grad():
            counted = self.record(losses, present)
            gradient = self._gradient(logits, self.previous, losses, counted & self.is_known, counted)
        # A term of value 0, through which the optimizer gets the gradient.
        return total + (gradient * (logits - logits.detach())).sum()

    @torch.no_grad()
    def update(self, losses: Tensor | Sequence[Tensor]) -> None:
        """Sets the gradient of the weights as the paper does: from the losses of the same batch after the step.

        Call it after the model's step and before `step()`, with the unweighted losses in the order of the config; then
        let an optimizer that has only these weights do its step. A loss of 0 is that of a task which the batch does not
        have.
        """
        now = promoted(losses if isinstance(losses, Tensor) else torch.stack(list(losses))).to(self.logits.device)
        present = now != 0
        if num_ranks() > 1:
            now, sharing = over_ranks(torch.stack([now, present.to(now)]))
            now, present = now / torch.where(sharing > 0, sharing, 1.0), sharing > 0
        known = (self.counts > 0) & present & torch.isfinite(now)
        logits = self.logits.to(now.dtype)
        before = _means(self.sums, self.counts, self.previous)
        self.logits.grad = self._gradient(logits, before, now, known, known).to(self.logits)

    @torch.no_grad()
    def step(self) -> None:
        """Takes the losses since the last step for those of the step before."""
        self.previous.copy_(_means(self.sums, self.counts, self.previous))
        self.is_known.logical_or_(self.counts > 0)
        self.forget()

    def _excess(self, losses: Tensor) -> Tensor:
        return (losses - self.floors).clamp_min(0) + _EPSILON

    def _gradient(self, logits: Tensor, before: Tensor, now: Tensor, known: Tensor, counted: Tensor) -> Tensor:
        fallen = torch.log(self._excess(before.to(now.dtype))) - torch.log(self._excess(now))
        fallen = torch.where(known, fallen, 0.0)
        shares = _softmax(logits, known)
        return shares * (fallen - (shares * fallen).sum()) + self.gamma * torch.where(counted, logits, 0.0)


@register_loss_balancing("dwa", schema=DWABalancingConfig)
class DWABalancing(_Averaging, CountingBalancing):
    r"""Weighs each loss by how slowly it has fallen lately.

    $L = \sum_i w_i \lambda_i L_i$ with $\lambda = T\,\mathrm{softmax}(r / \tau)$ for $T$ tasks, where $r_i$ is the mean
    of the loss over the last `period` steps, divided by that over the period before, and $\tau$ = `temperature`. In the
    first two periods all $\lambda$ are 1.

    Source: Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", 2019, where a period is an epoch.

    >>> DWABalancing(2)(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5]))
    tensor(3.5000)
    """

    is_additive = True
    last: Tensor
    before: Tensor
    period_sums: Tensor
    periods: Tensor

    def __init__(self, num_tasks: int, *, temperature: float = 2.0, period: int = 100) -> None:
        super().__init__(num_tasks)
        self.temperature = temperature
        self.period = period
        self.register_buffer("last", torch.zeros(num_tasks))
        self.register_buffer("before", torch.zeros(num_tasks))
        # Of each loss the sum, and how many times it was counted.
        self.register_buffer("period_sums", torch.zeros(2, num_tasks))
        self.register_buffer("periods", torch.zeros(num_tasks, dtype=torch.int64))

    def forward(
        self, losses: Tensor, weights: Tensor, *, present: Tensor | None = None, share: float | Tensor = 1.0
    ) -> Tensor:
        """The total; see `LossBalancing`."""
        losses = promoted(losses)
        is_learning = self.is_learning
        with torch.no_grad():
            factors = self._factors().to(losses.dtype)
            if is_learning:
                self.record(losses, present, share)
        return (weights * factors * losses).sum()

    @torch.no_grad()
    def step(self) -> None:
        """Adds the step to the period, as all ranks saw it, and begins a new one where it is over."""
        self.count_one()
        seen = torch.stack([self.sums, self.counts])
        self.period_sums.add_(over_ranks(seen) if num_ranks() > 1 else seen)
        self.forget()
        if self.count % self.period:
            return
        is_new = self.period_sums[1] > 0
        self.before.copy_(torch.where(is_new, self.last, self.before))
        self.last.copy_(_means(self.period_sums[0], self.period_sums[1], self.last))
        self.periods.add_(is_new)
        self.period_sums.zero_()

    def _factors(self) -> Tensor:
        is_known = (self.periods >= 2) & (self.before != 0)
        # Of a loss that was almost 0, the ratio may be infinite.
        ratio = (self.last / torch.where(is_known, self.before, 1.0)).clamp(-1e6, 1e6)
        return self.num_tasks * torch.softmax(torch.where(is_known, ratio, 1.0) / self.temperature, 0)


def _per_task(name: str, values: Sequence[float] | None, num_tasks: int, otherwise: float) -> Tensor:
    """A number per task.

    Raises:
        ValueError: there are more or fewer.
    """
    if values is not None and len(values) != num_tasks:
        raise ValueError(f"{name} must have a number for each of the {num_tasks} tasks, got {len(values)}")
    return torch.full((num_tasks,), otherwise) if values is None else torch.tensor(values, dtype=torch.float32)


def _means(sums: Tensor, counts: Tensor, otherwise: Tensor) -> Tensor:
    """The means, and for tasks of which there is nothing, what is given."""
    return torch.where(counts > 0, sums / torch.where(counts > 0, counts, 1.0), otherwise)


def _softmax(logits: Tensor, among: Tensor) -> Tensor:
    """The softmax over some of the tasks; 0 for the others, and for all where there is none."""
    largest = torch.where(among, logits, torch.finfo(logits.dtype).min).amax()
    powers = torch.where(among, torch.exp(logits - largest), 0.0)
    return powers / powers.sum().clamp_min(torch.finfo(logits.dtype).tiny)
