r"""Kernels of losses in which each element stands for itself: errors of numbers, and labels that are yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from losskit.modules.fused import Gradients, Kernel, Workspace, blocks

# From the elements of a block, of the input and of what else the loss takes, to the sum of the values. With a factor,
# it writes the derivatives times that factor into the buffer, which it may also use for anything before.
Elements = Callable[[Sequence[Tensor], Tensor, "float | None", Workspace], float]


def kernel_of_elements(elements: Elements, *others: Tensor) -> Kernel:
    """The kernel of a sum over elements.

    Args:
        elements: computes a block; it sees all tensors in float32, or float64 if the input is that.
        others: what the loss takes besides its input, of its shape, perhaps expanded.
    """

    def kernel(tensors: Sequence[Tensor], factor: float | None) -> tuple[float, Gradients]:
        (inputs,) = tensors
        gradient = None if factor is None else torch.empty_like(inputs)
        room = Workspace(inputs)
        total = 0.0
        for block in blocks([inputs, gradient, *others], num_rooms=4):
            given = []
            for index in (0, *range(2, 2 + len(others))):
                found = block.tensor(index)
                given.append(found if found.dtype == room.dtype else room(f"given {index}", found.shape).copy_(found))
            buffer = block.buffer(1, room)
            total += elements(given, buffer, factor, room)
            block.store(1, buffer)
        return total, [gradient]

    return kernel


def squared_errors(given: Sequence[Tensor], buffer: Tensor, factor: float | None, room: Workspace) -> float:
    r"""$(\hat y - y)^2$, whose derivative is $2 (\hat y - y)$."""
    errors = torch.sub(*given, out=buffer)
    total = sum_of_products(errors, errors, room)
    if factor is not None:
        errors.mul_(2 * factor)
    return total


def absolute_errors(given: Sequence[Tensor], buffer: Tensor, factor: float | None, room: Workspace) -> float:
    r"""$|\hat y - y|$, whose derivative is the sign of the error."""
    errors = torch.sub(*given, out=buffer)
    total = torch.abs(errors, out=room("sizes", errors.shape)).sum().item()
    if factor is not None:
        errors.sign_().mul_(factor)
    return total


def by_autograd(values: Callable[..., Tensor]) -> Elements:
    """Any loss, differentiated block by block: as little memory as with a formula, though more time."""

    def elements(given: Sequence[Tensor], buffer: Tensor, factor: float | None, room: Workspace) -> float:
        inputs, *others = given
        if factor is None:
            return values(inputs, *others).sum().item()
        with torch.enable_grad():
            leaf = inputs.detach().requires_grad_()
            total = values(leaf, *others).sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        torch.mul(gradient, factor, out=buffer)
        return total.item()

    return elements


def focal_labels(
    alpha: float | None, gamma: float, ignore_index: int | None, values: Callable[[Tensor, Tensor], Tensor]
) -> Elements:
    r"""The focal loss of labels that are 0 or 1, $\alpha_t\,w^\gamma\,\ell$.

    With the sign $s = 1 - 2 y$: $w = \sigma(s z)$ is the chance of being wrong, and $\ell = \log(1 + e^{s z})$. As
    $w' = s\,w (1 - w)$ and $\ell' = s\,w$, the derivative is $s\,\alpha_t\,w^\gamma (w + \gamma (1 - w)\,\ell)$.

    Args:
        alpha: of labels that are 1; that of others is $1 - \alpha$.
        gamma: $\gamma$.
        ignore_index: the label of elements that do not count.
        values: the plain form, from logits and labels, for blocks that hold other labels.
    """
    plain = by_autograd(values)

    def elements(given: Sequence[Tensor], buffer: Tensor, factor: float | None, room: Workspace) -> float:
        logits, labels = given
        shape = logits.shape
        rest = room("rest", shape)
        counts = None
        if ignore_index is not None and not torch.equal(torch.mul(labels, labels, out=rest), labels):
            counts = labels != ignore_index
            labels = room("labels", shape).copy_(labels).mul_(counts)
        if not torch.equal(torch.mul(labels, labels, out=rest), labels):
            return plain(given, buffer, factor, room)
        signs = torch.mul(labels, -2, out=room("signs", shape)).add_(1)
        turned = torch.mul(logits, signs, out=room("turned", shape))
        wrong = torch.sigmoid(turned, out=room("wrong", shape))
        costs = softplus(turned, wrong, room)
        scale = 1.0
        powers = torch.pow(wrong, gamma, out=rest)
        if alpha == 0.5:
            scale = 0.5
        elif alpha is not None:
            powers.mul_(torch.mul(labels, 2 * alpha - 1, out=buffer).add_(1 - alpha))
        if counts is not None:
            powers.mul_(counts)
        total = sum_of_products(powers, costs, room) * scale
        if factor is not None:
            right = torch.sub(1, wrong, out=turned)
            slopes = costs.mul_(right).mul_(gamma).add_(wrong).mul_(powers)
            torch.mul(slopes, signs.mul_(scale * factor), out=buffer)
        return total

    return elements


def softplus(x: Tensor, chances: Tensor, room: Workspace) -> Tensor:
    r"""$\log(1 + e^x)$ from $x$ and $w = \sigma(x)$, as $\max(x, 0) - \log(1 - \min(w, 1 - w))$.

    That takes one logarithm and no further exponential. Where the result is small so is $w$, and no digit is lost.
    """
    tails = torch.sub(1, chances, out=room("tails", x.shape))
    torch.minimum(chances, tails, out=tails).neg_().log1p_()
    return torch.clamp_min(x, 0, out=room("softplus", x.shape)).sub_(tails)


def sum_of_products(one: Tensor, other: Tensor, room: Workspace) -> float:
    """Added up pairwise, where a dot product in float32 would lose a digit."""
    return torch.mul(one, other, out=room("products", one.shape)).sum().item()
