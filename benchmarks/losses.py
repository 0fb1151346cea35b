"""How long the losses take, forward and backward, beside torch or the usual eager form, in one run.

python benchmarks/losses.py [--runs N] [--threads N]

The value and the gradient of both sides are compared first, so that the ratio is one of equal work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import losskit


class Case(NamedTuple):
    """Our loss and a peer, on the same tensors."""

    name: str
    loss: Callable[[Tensor, Tensor], Tensor]
    peer_name: str
    peer: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor
    targets: Tensor


def cases() -> list[Case]:
    """What is measured."""
    torch.manual_seed(0)
    million = torch.randn(2, 1_000_000)
    logits, ids = torch.randn(4096, 1000), torch.randint(1000, (4096,))
    labels = torch.randint(2, (10_000, 80)).float()
    pixels, classes = torch.randn(8, 21, 128, 128), torch.randint(21, (8, 128, 128))
    make = losskit.create_loss
    return [
        Case("mean_squared_error 1e6", make("mse"), "torch", F.mse_loss, *million),
        Case("mean_absolute_error 1e6", make("mae"), "torch", F.l1_loss, *million),
        Case("huber 1e6", make("huber"), "torch", F.huber_loss, *million),
        Case("softmax_cross_entropy 4096x1000", make("cross_entropy"), "torch", F.cross_entropy, logits, ids),
        Case(
            "the same, label_smoothing 0.1",
            make("cross_entropy", label_smoothing=0.1),
            "torch",
            lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1),
            logits,
            ids,
        ),
        Case(
            "sigmoid_cross_entropy 10000x80",
            make("sigmoid_cross_entropy"),
            "torch",
            _bce,
            torch.randn(10_000, 80),
            labels,
        ),
        Case("focal 10000x80, sigmoid", make("focal"), "eager", _sigmoid_focal, torch.randn(10_000, 80), labels),
        Case("focal 8x21x128x128, softmax", make("focal"), "eager", _softmax_focal, pixels, classes),
        Case("dice 8x21x128x128", make("dice"), "eager", _dice, pixels, classes),
        Case("tempered 4096x1000", make("bi_tempered_logistic"), "fixed point", _tempered, logits, ids),
    ]


def _bce(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels)


def _sigmoid_focal(logits: Tensor, labels: Tensor) -> Tensor:
    """As published on many pages."""
    p = torch.sigmoid(logits)
    values = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p_t = p * labels + (1 - p) * (1 - labels)
    weights = 0.25 * labels + 0.75 * (1 - labels)
    return (weights * (1 - p_t) ** 2 * values).mean()


def _softmax_focal(logits: Tensor, ids: Tensor) -> Tensor:
    values = F.cross_entropy(logits, ids, reduction="none")
    return ((1 - torch.exp(-values)) ** 2 * values).mean()


def _dice(logits: Tensor, ids: Tensor) -> Tensor:
    """With a one-hot encoding, as it is usual."""
    p = logits.softmax(1).flatten(2)
    masks = F.one_hot(ids, logits.shape[1]).movedim(-1, 1).float().flatten(2)
    return 1 - ((2 * (p * masks).sum(2) + 1) / (p.sum(2) + masks.sum(2) + 1)).mean()


def _tempered(logits: Tensor, ids: Tensor, t1: float = 0.8, t2: float = 1.4, num_iters: int = 20) -> Tensor:
    """The published fixed-point iteration, with as many steps as it needs to come close."""

    def exp_t(x: Tensor, t: float) -> Tensor:
        return (1 + (1 - t) * x).clamp_min(0) ** (1 / (1 - t))

    def log_t(x: Tensor, t: float) -> Tensor:
        return (x ** (1 - t) - 1) / (1 - t)

    largest = logits.amax(-1, keepdim=True)
    shifted = scaled = logits - largest
    for _ in range(num_iters):
        scaled = shifted * exp_t(scaled, t2).sum(-1, keepdim=True) ** (1 - t2)
    total = exp_t(scaled, t2).sum(-1, keepdim=True)
    p = exp_t(logits - (-log_t(1 / total, t2) + largest), t2)
    labels = F.one_hot(ids, logits.shape[1]).to(logits.dtype)
    terms = labels * (log_t(labels + 1e-10, t1) - log_t(p, t1)) - (labels ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
    return terms.sum(-1).mean()


def run(loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient."""
    leaf = inputs.detach().requires_grad_()
    value = loss(leaf, targets)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def main() -> None:
    """Runs both sides of each case in turn, several times, and prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'loss':<34} {'ms':>8}   {'peer':<12} {'ms':>8} {'ratio':>7}")
    for case in cases():
        ours, theirs = (run(side, case.inputs, case.targets) for side in (case.loss, case.peer))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
        times: tuple[list[float], list[float]] = [], []
        for _ in range(options.runs):
            for side, values in zip((case.loss, case.peer), times, strict=True):
                start = time.perf_counter()
                run(side, case.inputs, case.targets)
                values.append(time.perf_counter() - start)
        mine, other = (statistics.median(values) * 1000 for values in times)
        print(f"{case.name:<34} {mine:8.2f}   {case.peer_name:<12} {other:8.2f} {mine / other:7.2f}")


if __name__ == "__main__":
    main()
