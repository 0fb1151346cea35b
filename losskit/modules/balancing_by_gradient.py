"""Strategies that balance losses by the gradients of the parameters that the tasks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from losskit.modules.balancing import CountingBalancing, LossBalancing, promoted
from losskit.modules.shapes import without_autocast
from losskit.schema.balancing import GradNormBalancingConfig, NashMTLBalancingConfig, PCGradBalancingConfig
from losskit.strategies import register_loss_balancing

# No weight of `gradnorm` falls below this: a step of the optimizer might make it negative.
_LEAST_WEIGHT = 1e-6
# Newton steps towards the Nash solution; 20 tasks whose gradients nearly oppose each other need 25 at most.
_NEWTON_STEPS = 40
# Gradients whose angle is so near to 180 degrees that the weight of their task would be larger oppose each other.
_LARGEST_SCALE = 100.0


@register_loss_balancing("gradnorm", schema=GradNormBalancingConfig)
class GradNormBalancing(LossBalancing):
    r"""Learns weights by which all tasks have gradients of about one norm, larger where a task learns slowly.

    $L = \sum_i w_i v_i L_i$ with learned $v_i > 0$ that sum to the number of tasks $T$. With the norms
    $G_i = v_i \|\nabla L_i\|$, their mean $\bar G$, and $r_i$, the quotient $L_i / L_i(0)$ divided by the mean of all
    quotients, $v$ has the gradient of $\sum_i |G_i - \bar G r_i^\alpha|$, where $\bar G r_i^\alpha$ is a constant.

    Source: Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks",
    2018. $L_i(0)$ is the loss of the first batch that has the task.

    >>> GradNormBalancing(2).eval()(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5]))
    tensor(3.5000)
    """

    needs_gradients = True
    initial: Tensor
    is_known: Tensor

    def __init__(self, num_tasks: int, *, alpha: float = 1.5) -> None:
        super().__init__(num_tasks)
        self.alpha = alpha
        self.task_weights = nn.Parameter(torch.ones(num_tasks))
        self.register_buffer("initial", torch.zeros(num_tasks))
        self.register_buffer("is_known", torch.zeros(num_tasks, dtype=torch.bool))

    def forward(
        self, losses: Tensor, weights: Tensor, *, gram: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """The total; see `LossBalancing`."""
        losses = promoted(losses)
        raw = self.task_weights.to(losses.dtype)
        used = self._normalized(raw.detach())
        total = (weights * used * losses).sum()
        if gram is None or not self.is_learning:
            return total
        with torch.no_grad():
            counted = torch.isfinite(losses) if present is None else present & torch.isfinite(losses)
            self.initial.copy_(torch.where(counted & ~self.is_known, losses, self.initial))
            self.is_known.logical_or_(counted)
            norms = gram.diagonal().to(losses.dtype).clamp_min(0).sqrt()
            away = used * norms - self._targets(losses, used * norms, counted)
            gradient = torch.where(counted, torch.sign(away) * norms, 0.0)
        # A term of value 0, through which the optimizer gets the gradient.
        return total + (gradient * (raw - raw.detach())).sum()

    @torch.no_grad()
    def step(self) -> None:
        """Brings the learned weights back to a sum of the number of tasks."""
        self.task_weights.copy_(self._normalized(self.task_weights))

    def _normalized(self, raw: Tensor) -> Tensor:
        positive = raw.clamp_min(_LEAST_WEIGHT)
        return self.num_tasks * positive / positive.sum()

    def _targets(self, losses: Tensor, norms: Tensor, counted: Tensor) -> Tensor:
        """The norms that the gradients should have."""
        count = counted.sum().clamp_min(1)
        initial = self.initial.to(losses.dtype)
        quotients = losses / torch.where(initial == 0, 1.0, initial)
        left = torch.where(counted & (initial != 0), quotients, counted.to(losses))
        # A loss that can be negative has no such quotient; then it is taken for a task that is done.
        left = left.clamp_min(0)
        pace = left * count / left.sum().clamp_min(torch.finfo(losses.dtype).tiny)
        return torch.where(counted, norms, 0.0).sum() / count * pace**self.alpha


@register_loss_balancing("nash_mtl", schema=NashMTLBalancingConfig)
class NashMTLBalancing(CountingBalancing):
    r"""Weighs losses so that the step is one that tasks would agree on if they bargained about it.

    $L = \sum_i w_i \alpha_i L_i$, where $\alpha > 0$ solves $K \alpha = 1/\alpha$ for the inner products $K$ of the
    gradients of the shared parameters, divided by their norm. Gradients on other scales give the same step. A task
    whose gradient is 0 keeps its weight, 1 at first.

    Source: Navon et al., "Multi-Task Learning as a Bargaining Game", 2022. The solution minimises
    $\frac12 \alpha^\top K \alpha - \sum_i \log \alpha_i$, which is convex, and is found by damped Newton steps.

    >>> balancing = NashMTLBalancing(2)
    >>> balancing(torch.ones(2), torch.ones(2), gram=torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    tensor(3.0458)
    """

    needs_gradients = True
    alphas: Tensor

    def __init__(
        self, num_tasks: int, *, update_every: int = 1, max_norm: float | None = None, normalize: bool = True
    ) -> None:
        super().__init__(num_tasks)
        self.update_every = update_every
        self.max_norm = max_norm
        self.normalize = normalize
        self.register_buffer("alphas", torch.ones(num_tasks))

    @property
    def wants_gradients(self) -> bool:
        """Whether the weights are to be computed anew."""
        return super().wants_gradients and self.count % self.update_every == 0

    def forward(
        self, losses: Tensor, weights: Tensor, *, gram: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """The total; see `LossBalancing`."""
        losses = promoted(losses)
        alphas = self.alphas.to(losses.dtype, copy=True)
        if gram is not None and self.is_learning:
            with torch.no_grad(), without_autocast(gram):
                there = torch.ones_like(losses, dtype=torch.bool) if present is None else present
                found = self._bargained(gram, weights, there)
                self.alphas.copy_(found)
                alphas = found.to(losses.dtype)
        return (weights * alphas * losses).sum()

    def step(self) -> None:
        """Counts the step."""
        self.count_one()

    def _bargained(self, gram: Tensor, weights: Tensor, present: Tensor) -> Tensor:
        gram = gram if gram.device.type == "mps" else gram.double()
        norms = gram.diagonal().clamp_min(0).sqrt()
        # Squares of what is smaller than this are lost beside the largest; and infinite ones bargain with nobody.
        is_active = present & (norms > norms.amax() * torch.finfo(torch.float32).tiny ** 0.5) & torch.isfinite(norms)
        gram = torch.where(is_active & is_active[:, None], gram, 0.0)
        norms = torch.where(is_active, norms, 1.0)
        cosines = gram / norms / norms[:, None]
        scales = _bargain(torch.where(torch.eye(len(norms), dtype=torch.bool, device=gram.device), 1.0, cosines))
        alphas = scales / norms
        if self.normalize:
            alphas = alphas * gram.square().sum().sqrt().sqrt()
        alphas = torch.where(is_active, alphas, self.alphas.to(alphas))
        if self.max_norm is not None:
            weighted = torch.where(is_active, weights * alphas, 0.0)
            norm = (weighted @ gram @ weighted).clamp_min(0).sqrt()
            alphas = alphas * (self.max_norm / norm.clamp_min(self.max_norm))
        return alphas


def _bargain(cosines: Tensor) -> Tensor:
    """The positive solution of `cosines @ x = 1 / x`, in a fixed number of steps, so that no device is waited for."""
    scales = torch.ones_like(cosines[0])
    scales = scales * (len(scales) / cosines.sum().clamp_min(1e-6)).sqrt().clamp_max(_LARGEST_SCALE)
    for _ in range(_NEWTON_STEPS):
        slope = cosines @ scales - 1 / scales
        curvature = cosines + torch.diag(scales**-2)
        factor, _ = torch.linalg.cholesky_ex(curvature)
        step = torch.cholesky_solve(slope[:, None], factor)[:, 0]
        # In this measure of a step, the function is tame: a step that is damped so keeps all scales positive.
        size = (slope * step).sum().clamp_min(0).sqrt()
        step = step / torch.where(size < 0.25, 1.0, 1 + size)
        scales = (scales - step).clamp(max=_LARGEST_SCALE)
    return scales


@register_loss_balancing("pcgrad", schema=PCGradBalancingConfig)
class PCGradBalancing(CountingBalancing):
    r"""Takes out of each task's gradient what goes against another's.

    The value is $\sum_i w_i L_i$. Its gradient is $\sum_i w_i g_i'$, where $g_i'$ starts as $g_i = \nabla L_i$ and, for
    all other tasks $j$ in random order, loses its projection on $g_j$ where $g_i' \cdot g_j < 0$. Each $g_i'$ is a
    combination of all $g_j$ whose coefficients follow from the inner products of the gradients.

    Source: Yu et al., "Gradient Surgery for Multi-Task Learning", 2020. The random order follows from `seed` and the
    number of calls, so that it is the same on all ranks and after a restart.

    >>> PCGradBalancing(2)(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5]))
    tensor(3.5000)
    """

    needs_gradients = True

    def __init__(self, num_tasks: int, *, seed: int = 0) -> None:
        super().__init__(num_tasks)
        self.seed = seed

    def forward(self, losses: Tensor, weights: Tensor, *, gram: Tensor | None = None) -> Tensor:
        """The total; see `LossBalancing`."""
        losses = promoted(losses)
        value = (weights * losses).sum()
        if gram is None or not self.is_learning:
            return value
        with torch.no_grad(), without_autocast(gram):
            factors = weights.to(gram) @ self._projected(gram, self.order().to(gram.device))
            self.count_one()
        combined = (factors.to(losses.dtype) * losses).sum()
        return combined + (value - combined).detach()

    def order(self) -> Tensor:
        """For each task, the order in which all tasks are looked at in the next call."""
        # A generator looks at 32 bits of its seed; an odd factor spreads the seeds of the config over all of them.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B1 + self.count) % 2**32)
        return torch.rand(self.num_tasks, self.num_tasks, generator=generator).argsort(dim=1)

    def _projected(self, gram: Tensor, order: Tensor) -> Tensor:
        """A row per task: of which combination of all gradients its projected gradient is."""
        tasks = torch.arange(self.num_tasks, device=gram.device)
        squares = gram.diagonal()
        rows = torch.eye(self.num_tasks, dtype=gram.dtype, device=gram.device)
        for others in order.T:
            # Of each task, the projection on one other, all at once.
            products = (rows * gram[others]).sum(1)
            conflicts = (products < 0) & (others != tasks) & (squares[others] > 0)
            portions = torch.where(conflicts, products / torch.where(conflicts, squares[others], 1.0), 0.0)
            rows[tasks, others] -= portions
        return rows
