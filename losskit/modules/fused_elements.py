r"""Kernels of losses in which each element stands for itself: errors of numbers, and labels that are yes or no."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from losskit.modules.fused import Block, Kernel, Workspace, kernel_of_blocks

# From the elements of a block, of the input and of what else the loss takes, to the sum of the values. With a factor,
# it writes the derivatives times that factor into the buffer, which it may also use for anything before.
Elements = Callable[[Sequence[Tensor], Tensor, "float | None", Workspace], float]

# The label of what does not count.
NOT_COUNTED = -1


def kernel_of_elements(elements: Elements, *others: Tensor, num_rooms: int = 1) -> Kernel:
    """The kernel of a sum over elements.

    Args:
        elements: computes a block; it sees all tensors in float32, or float64 if the input is that.
        others: what the loss takes besides its input, of its shape.
        num_rooms: how many arrays of a block's size it needs.
    """

    def of_block(block: Block, factor: float | None, room: Workspace) -> float:
        given = [block.tensor(index, room) for index in (0, *range(2, 2 + len(others)))]
        buffer = block.buffer(1, room)
        total = elements(given, buffer, factor, room)
        block.store(1, buffer)
        return total

    return kernel_of_blocks(of_block, others, num_rooms=num_rooms)


def kernel_of_one_hot(
    elements: Elements, ids: Tensor, valid: Tensor | None, axis: int, *, num_rooms: int = 1
) -> Kernel:
    """The kernel of a sum over items, of the mean over classes of a loss of labels that are 1 for the item's class.

    Args:
        elements: computes a block, from its logits and such labels, or `NOT_COUNTED`.
        ids: of classes, shaped like the logits without the class axis.
        valid: which items count; None for all.
        axis: the class axis.
        num_rooms: how many arrays of a block's size it needs, with that of the labels.
    """

    def of_block(block: Block, factor: float | None, room: Workspace) -> float:
        given, block_ids, counts = block.tensor(0, room), block.item(0), block.item(1)
        assert block_ids is not None
        labels = room("one hot", given.shape).zero_().scatter_(1, block_ids.unsqueeze(1), 1.0)
        if counts is not None:
            labels.masked_fill_(~counts.unsqueeze(1), NOT_COUNTED)
        share, buffer = 1 / block.shape[1], block.buffer(1, room)
        total = share * elements([given, labels], buffer, None if factor is None else share * factor, room)
        block.store(1, buffer)
        return total

    return kernel_of_blocks(of_block, (), [ids, valid], axis, num_rooms=num_rooms)


def squared_errors(given: Sequence[Tensor], buffer: Tensor, factor: float | None, room: Workspace) -> float:
    r"""$(\hat y - y)^2$, whose derivative is $2 (\hat y - y)$."""
    errors = torch.sub(*given, out=buffer)
    # A dot product in float32 would lose a digit; sums are added up pairwise.
    total = torch.mul(errors, errors, out=room("squares", errors.shape)).sum().item()
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
        one = logits.new_ones(())
        rest, tails = (room(name, logits.shape) for name in ("rest", "tails"))
        counts = None
        # Labels of 0 and 1 are their own squares; one of the two may itself be what is ignored.
        may_be_ignored = ignore_index in (0, 1) or not torch.equal(torch.mul(labels, labels, out=rest), labels)
        if ignore_index is not None and may_be_ignored:
            counts = labels != ignore_index
            labels = room("labels", labels.shape).copy_(labels).mul_(counts)
        if not torch.equal(torch.mul(labels, labels, out=rest), labels):
            return plain(given, buffer, factor, room)
        signs = torch.sub(one, labels, alpha=2, out=room("signs", labels.shape))
        turned = torch.mul(logits, signs, out=buffer)
        wrong = torch.sigmoid(turned, out=room("wrong", turned.shape))
        costs = softplus_(turned, wrong, tails)
        powers = torch.pow(wrong, gamma, out=rest)
        if alpha is not None:
            powers.mul_(torch.add(one * (1 - alpha), labels, alpha=2 * alpha - 1, out=tails))
        if counts is not None:
            powers.mul_(counts)
        total = torch.mul(powers, costs, out=tails).sum().item()
        if factor is not None:
            right = torch.sub(1, wrong, out=tails)
            torch.addcmul(wrong, right, costs, value=gamma, out=costs)
            costs.mul_(powers).mul_(signs.mul_(factor))
        return total

    return elements


def softplus_(x: Tensor, chances: Tensor, tails: Tensor) -> Tensor:
    r"""$\log(1 + e^x)$ in place of $x$, as $\max(x, 0) - \log(1 - \min(w, 1 - w))$ with $w = \sigma(x)$, the chances.

    That takes one logarithm and no further exponential. Where the result is small so is $w$, and no digit is lost.
    """
    torch.sub(1, chances, out=tails)
    torch.minimum(chances, tails, out=tails).neg_().log1p_()
    return x.clamp_min_(0).sub_(tails)
