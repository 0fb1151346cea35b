r"""Probabilities from tempered exponentials, which one solver normalises, and the kernels of losses of them.

With $\exp_t x = [1 + (1 - t) x]_+^{1/(1-t)}$, the probabilities of scores $z$ are $p_i = \exp_t(z_i - \lambda)$ with
the $\lambda$ that makes $\sum_i p_i = 1$: the softmax at $t = 1$, one of heavier tails above, one that can be exactly
0 below, of which $t = 1/2$ is entmax of order 1.5 and $t = 0$ sparsemax.

Let the largest $z$ be 0, and $w = 1 - (1 - t) \lambda$, so that $p_i = [w + (1 - t) z_i]_+^{1/(1-t)}$. With
$S = \sum_i p_i$ and $Q = \sum_i p_i^t$, $\partial S / \partial \lambda = -Q$. Newton's method is applied to $S^{1-t}$,
which for equal scores is exactly linear in $\lambda$:

$w \mathrel{+}= \frac{S}{Q} (S^{t-1} - 1)$.

$S^{1-t}$ is concave in $\lambda$ above $t = 1$, convex below. So from $w = 1$, where $S \ge 1$, the steps approach the
solution from one side. At $t = 0$ they end, after as many as it takes to find which $p_i$ are above 0. From the slope
of $S$ come the derivatives, too:

$\partial \lambda / \partial z_i = p_i^t / Q$ and $\partial p_i / \partial z_k = p_i^t ([i = k] - p_k^t / Q)$.

A small $w$ that is added to scores keeps digits that they would lose if $\lambda$ were subtracted. Near $t = 1$ it is
$w - 1$ that is small.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from losskit.modules.fused import Block, Kernel, OfBlock, Workspace, kernel_of_blocks
from losskit.modules.shapes import Classes

# From where on t is so near 1 that powers lose digits which logarithms keep; and t1, of which they are the differences.
_NEAR, _NEAR_LOGARITHM = 0.15, 0.1
# More products than these take as long as a logarithm and an exponential.
_MOST_FACTORS = 24
# After as many steps each row has converged: one that leaves the part q of Q leaves at most the part 1 - q of S - 1. Of
# a million classes in float64, that allows for some 40 at t = 0, of which each gives up as little as it can.
_ENOUGH_STEPS = 64
# A step as small as so many roundings, over all classes, is none.
_ROUNDINGS = 4
# The plain forms sort, or go through all steps, so that small inputs are worth a kernel.
TIMES_LEAST_SIZE = 1 / 16


def is_near(t: float) -> bool:
    """Whether $w - 1$ is what to compute with, in place of $w$."""
    return abs(1 - t) < _NEAR


class Tempered:
    r"""The probabilities of scores along axis 1 of a block, and powers of them.

    All of them are powers of the unit $u = w_i^{\pm 1}$ or $w_i^{\pm 1/2}$, with $w_i = w + (1 - t) z_i$, where these
    are products of a few factors; else exponentials of the unit $u = \log p_i$.
    """

    def __init__(self, scores: Tensor, t: float, room: Workspace) -> None:
        """Takes scores of which the largest is 0, and overwrites them."""
        self._t, self._room = t, room
        self._is_near = is_near(t)
        # p is the unit to this power, of which w_i is the power `_roots`; 0 where the unit is log p.
        self._factors, self._roots = 0, 1
        for roots in () if self._is_near else (2, 1):
            if factors := _whole(roots / abs(1 - t)):
                self._factors, self._roots = factors, roots
        self._scaled = scores if t in (0, 1) else scores.mul_(1 - t)
        # w, or w - 1; at t = 1, -lambda.
        self.offset = torch.full_like(scores.select(1, 0).unsqueeze(1), 0.0 if self._is_near else 1.0)

    def solve(self, num_steps: int) -> None:
        """Normalises them, in at most so many steps."""
        self._evaluate()
        for _ in range(num_steps):
            sizes = self.sums.log()
            if self._t != 1:
                sizes.mul_(self._t - 1).expm1_()
            step = (self.sums / self.powers_sums).mul_(-sizes if self._t == 1 else sizes)
            # Below t = 1, each w_i is rounded as w is, and no step can be smaller; above, it is S that is rounded.
            moved = step / self.offset if self._t < 1 and not self._is_near else sizes
            least = _ROUNDINGS * torch.finfo(step.dtype).eps * (abs(1 - self._t) or 1)
            if not bool((moved.abs() > least).any()):
                break
            self.offset += step
            self._evaluate()

    def _evaluate(self) -> None:
        shape = self._scaled.shape
        self._unit = self._to_unit(torch.add(self._scaled, self.offset, out=self._room("unit", shape)))
        if not self._factors:
            self.p, self.powers = self.power(1, self._named("p")), self.power(self._t, self._named("powers"))
        elif self._t > 1:
            self.p = self._unit if self._factors == 1 else self.power(1, self._named("p"))
            self.powers = self._times_w(self.p, self._named("powers"))
        else:
            # p^t is the unit to the power `_factors - _roots`.
            is_unit = self._factors - self._roots == 1
            self.powers = self._unit if is_unit else self.power(self._t, self._named("powers"))
            is_unit = self._factors == 1
            self.p = self._unit if is_unit else self._times_w(self.powers, self._named("p"))
        self.sums, self.powers_sums = self.p.sum(1, keepdim=True), self.powers.sum(1, keepdim=True)

    def _named(self, name: str) -> Tensor:
        return self._room(name, self._scaled.shape)

    def _times_w(self, powers: Tensor, out: Tensor) -> Tensor:
        """Times w_i, or 1 / w_i, whichever is a power of the unit."""
        torch.mul(powers, self._unit, out=out)
        return out if self._roots == 1 else out.mul_(self._unit)

    def _to_unit(self, base: Tensor) -> Tensor:
        """From w_i, or w_i - 1, or log p_i at t = 1, to the unit, in place."""
        if self._t == 1:
            return base
        if self._t < 1:
            base.clamp_min_(-1 if self._is_near else 0)
        if not self._factors:
            return (base.log1p_() if self._is_near else base.log_()).mul_(1 / (1 - self._t))
        if self._roots == 1:
            return base if self._t < 1 else base.reciprocal_()
        return base.sqrt_() if self._t < 1 else base.rsqrt_()

    def power(self, exponent: float, out: Tensor) -> Tensor:
        """The probabilities to some power in `out`, 0 wherever they are 0."""
        if exponent == 0:
            return torch.gt(self._unit, 0 if self._factors else -math.inf, out=out)
        if factors := _whole(abs(exponent) * self._factors):
            _product(self._unit, factors, out)
            if exponent < 0:
                out.reciprocal_()
        else:
            self.log_p(out).mul_(exponent).exp_()
        # Not where the probability is 0, for it may be too small for a number while its logarithm is none.
        return out if exponent > 0 else out.masked_fill_(self._unit == (0 if self._factors else -math.inf), 0)

    def log_p(self, out: Tensor) -> Tensor:
        """The logarithms of the probabilities in `out`."""
        return self._log_of(out.copy_(self._unit))

    def log_p_of(self, ids: Tensor) -> Tensor:
        """The logarithm of the probability of one class of each item."""
        base = self._scaled.gather(1, ids.unsqueeze(1)).add_(self.offset)
        return self._log_of(self._to_unit(base)).squeeze(1)

    def _log_of(self, unit: Tensor) -> Tensor:
        return unit.log_().mul_(self._factors) if self._factors else unit


def _whole(factors: float) -> int:
    """A number of factors, 0 if it is no whole number or too large."""
    whole = round(factors)
    return whole if whole <= _MOST_FACTORS and math.isclose(factors, whole, rel_tol=1e-13) else 0


def _product(unit: Tensor, factors: int, out: Tensor) -> Tensor:
    """The unit to an integer power from 1 on."""
    if factors == 1:
        return out.copy_(unit)
    power = unit
    for bit in bin(factors)[3:]:
        power = torch.mul(power, power, out=out)
        if bit == "1":
            power.mul_(unit)
    return power


def kernel_of_sparse(given: Classes, t: float) -> Kernel:
    r"""The kernel of the sum of the Fenchel-Young losses of $p$, for $t$ below 1.

    The entropy whose largest $z \cdot p + H(p)$ has this $p$ is $H(p) = (1 - \sum_i p_i^{2-t}) / ((2 - t) (1 - t))$.
    That largest value is $\lambda + (\sum_i p_i^{2-t} - 1) / (2 - t)$, the least of this for all $\lambda$, so an error
    of $\lambda$ hardly changes it; its gradient is $p$. So with labels $y$, $L = \lambda + (\sum_i p_i^{2-t} - 1) /
    (2 - t) - z \cdot y - H(y)$ and $\partial L / \partial z = p - y$.

    Args:
        given: ids or labels, and which of them count; the logits are not read.
        t: 0 for sparsemax, 1/2 for entmax of order 1.5.
    """

    def of_block(block: Block, factor: float | None, room: Workspace) -> float:
        buffer = _relative_scores(block, room)
        ids, counts = block.item(0), block.item(1)
        if ids is None:
            labels = room("labels", buffer.shape).copy_(block.tensor(2))
            # A class of probability 0 that also cannot be, with a logit of -inf, costs nothing.
            crossed = torch.where(labels == 0, 0, labels * buffer).sum(1)
            crossed += (1 - labels.pow(2 - t).sum(1)) / ((2 - t) * (1 - t))
        else:
            crossed = buffer.gather(1, ids.unsqueeze(1)).squeeze(1)
        found = Tempered(buffer, t, room)
        found.solve(_ENOUGH_STEPS)
        normalization = (1 - found.offset.squeeze(1)) / (1 - t)
        values = normalization + (found.power(2 - t, buffer).sum(1) - 1) / (2 - t) - crossed
        total = _of_counted(values, counts).sum().item()
        if factor is None:
            return total
        torch.mul(found.p, factor, out=buffer)
        if ids is None:
            buffer.sub_(room("labels", buffer.shape), alpha=factor)
        else:
            buffer.scatter_add_(1, ids.unsqueeze(1), torch.full_like(values, -factor).unsqueeze(1))
        if counts is not None:
            buffer.masked_fill_(~counts.unsqueeze(1), 0)
        block.store(1, buffer)
        return total

    return _kernel(of_block, given)


def kernel_of_tempered(given: Classes, t1: float, t2: float, label_smoothing: float, num_steps: int) -> Kernel:
    r"""The kernel of the sum of bi-tempered losses.

    With $p$ the tempered softmax of $t = t_2$ and smoothed labels $y$, $L = \sum_c y_c (\log_{t_1} y_c -
    \log_{t_1} p_c) - (y_c^{2-t_1} - p_c^{2-t_1}) / (2 - t_1)$. Of this, $\partial L / \partial p_c = p_c^{1-t_1} - y_c
    p_c^{-t_1}$; with $h_c = p_c^{t_2} \, \partial L / \partial p_c = p_c^{t_2 + 1 - t_1} - y_c p_c^{t_2 - t_1}$ and the
    derivatives of $p$,

    $\partial L / \partial z_k = h_k - p_k^{t_2} \sum_c h_c / Q$:

    nothing but powers of $p$, and their sums over the classes. Classes of probability 0 have a gradient of 0, also
    where $p^{t_2 - t_1}$ grows without limit on the way there.

    Args:
        given: ids or labels, and which of them count; the logits are not read.
        t1: the temperature of the logarithm.
        t2: the temperature of the softmax.
        label_smoothing: what the other classes get of each label, together.
        num_steps: the most steps of the solver, where $t_2$ is not below 1.
    """
    num_classes = given.logits.shape[given.axis]
    share = label_smoothing / max(num_classes - 1, 1)
    label = 1 - label_smoothing if num_classes > 1 else 1.0

    def of_block(block: Block, factor: float | None, room: Workspace) -> float:
        buffer = _relative_scores(block, room)
        ids, counts = block.item(0), block.item(1)
        found = Tempered(buffer, t2, room)
        found.solve(num_steps if t2 >= 1 else _ENOUGH_STEPS)
        own = found.log_p_of(ids) if ids is not None else None
        # They take the place of the scores, which have served.
        powers, spare = found.power(1 - t1, buffer), room("p", buffer.shape)
        values = torch.mul(found.p, powers, out=spare).sum(1) / (2 - t1)
        labels = None
        if own is not None:
            values += own_term(label, t1) + (num_classes - 1) * own_term(share, t1)
            values -= (label - share) * tempered_log(own, t1)
            if share:
                logarithms = _logarithms(found, powers, t1, spare)
                values -= share * (logarithms if t1 < 1 else _without(logarithms, None)).sum(1)
        else:
            targets = block.tensor(2)
            labels = room("labels", buffer.shape).copy_(targets).mul_(1 - label_smoothing - share).add_(share)
            values += own_term(labels, t1).sum(1)
            logarithms = _logarithms(found, powers, t1, spare)
            values -= (logarithms if t1 < 1 else _without(logarithms, targets == 0)).mul_(labels).sum(1)
        total = _of_counted(values, counts).sum().item()
        if factor is None:
            return total
        h = powers.mul_(found.powers)
        if labels is not None:
            h.sub_(found.power(t2 - t1, spare).mul_(labels))
        elif share:
            h.sub_(found.power(t2 - t1, spare), alpha=share)
        sums = h.sum(1, keepdim=True)
        scale = factor if counts is None else factor * counts.unsqueeze(1).to(room.dtype)
        if ids is None or own is None:
            h.addcmul_(found.powers, sums / found.powers_sums, value=-1).mul_(scale)
        else:
            taken = torch.where(own > -math.inf, (label - share) * ((t2 - t1) * own).exp(), 0).unsqueeze(1)
            h.addcmul_(found.powers, (sums - taken) / found.powers_sums, value=-1).mul_(scale)
            h.scatter_add_(1, ids.unsqueeze(1), -scale * taken)
        block.store(1, h)
        return total

    return _kernel(of_block, given)


def tempered_log(log_p: Tensor, t: float) -> Tensor:
    r"""$\log_t p = (p^{1-t} - 1) / (1 - t)$ from $\log p$; exact near $t = 1$."""
    if t == 1:
        return log_p
    possible = log_p > -math.inf
    finite = torch.where(possible, log_p, torch.zeros_like(log_p))
    return torch.where(possible, ((1 - t) * finite).expm1() / (1 - t), -1 / (1 - t))


def own_term(label: Any, t1: float) -> Any:
    r"""$y \log_t y - y^{2-t} / (2 - t)$, with $0 \log 0 = 0$."""
    if isinstance(label, Tensor):
        log_label = label.clamp_min(torch.finfo(label.dtype).tiny).log()
        return label * tempered_log(log_label, t1) - label ** (2 - t1) / (2 - t1)
    if label == 0:
        return 0.0
    log_t = math.log(label) if t1 == 1 else math.expm1((1 - t1) * math.log(label)) / (1 - t1)
    return label * log_t - label ** (2 - t1) / (2 - t1)


def _logarithms(found: Tempered, powers: Tensor, t1: float, out: Tensor) -> Tensor:
    r"""$\log_{t_1} p$ in `out`, given $p^{1-t_1}$."""
    if 1 - t1 > _NEAR_LOGARITHM:
        return torch.sub(powers, 1, out=out).mul_(1 / (1 - t1))
    logarithms = found.log_p(out)
    return logarithms if t1 == 1 else logarithms.mul_(1 - t1).expm1_().mul_(1 / (1 - t1))


def _without(logarithms: Tensor, unlabelled: Tensor | None) -> Tensor:
    """0 in place of -inf, where a class that cannot be has no label but a smoothed one."""
    impossible = logarithms == -math.inf
    return logarithms.masked_fill_(impossible if unlabelled is None else impossible & unlabelled, 0)


def _of_counted(values: Tensor, counts: Tensor | None) -> Tensor:
    return values if counts is None else torch.where(counts, values, 0)


def _kernel(of_block: OfBlock, given: Classes) -> Kernel:
    """Of blocks of logits, gradient and labels, with ids and whether they count."""
    ids, labels = (given.targets, None) if given.are_ids else (None, given.targets)
    return kernel_of_blocks(of_block, [labels], [ids, given.valid], given.axis, num_rooms=1)


def _relative_scores(block: Block, room: Workspace) -> Tensor:
    """The logits relative to the largest, which keeps digits, in the memory of the gradient."""
    logits, buffer = block.tensor(0), block.buffer(1, room)
    if logits.dtype != room.dtype:
        logits = buffer.copy_(logits)
    return torch.sub(logits, logits.amax(1, keepdim=True), out=buffer)
