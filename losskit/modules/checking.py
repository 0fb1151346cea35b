"""Checks of values, such as labels in range; checks of shapes and dtypes stand in `shapes.py`.

A value check must look at a whole tensor. On a CPU that is cheap and always done; on other devices it would stall the
queue, so there it is an asynchronous assertion, and a readable error only within `debug()`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

_debugging = False
# The loss that a criterion calls, its name there, and the roles of its inputs.
_called: tuple[nn.Module, str, Sequence[str]] | None = None


@contextlib.contextmanager
def debug(enabled: bool = True) -> Iterator[None]:
    """Within the `with` block, losses check all values of their inputs and say in words what is wrong.

    The error names the loss, and in a criterion the feature, the tensor, and the index of the first bad value; so does
    that of a backward pass in which a loss gives one of its inputs a gradient that is not finite. It makes every call
    wait for the device and reads all tensors once more, so it is for looking for a fault.

    >>> with debug():
    ...     get_loss_cls("number", "huber")()(torch.tensor([float("nan")]), torch.zeros(1))
    Traceback (most recent call last):
    ValueError: predictions hold a value that is not finite: nan at index (0,)
    """
    global _debugging  # noqa: PLW0603 - losses read it in `forward`, where torch.compile knows no context variable
    before, _debugging = _debugging, enabled
    hook = register_module_forward_pre_hook(_watch) if enabled and not before else None
    try:
        yield
    finally:
        _debugging = before
        if hook is not None:
            hook.remove()


def debugging() -> bool:
    """Whether checks that read whole float tensors are switched on."""
    return _debugging and not torch.compiler.is_compiling()


def can_peek(tensor: Tensor) -> bool:
    """Whether a value can be looked at without waiting for a device, or breaking a graph."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.is_cpu
        and not _debugging
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()  # of modes such as a tracer
    )


def can_be_quick(tensor: Tensor, reduction: str, normalizer: Tensor | float | None) -> bool:
    """Whether a loss may try torch's mean first, and take the careful way if what comes out is not finite."""
    return reduction == "mean" and normalizer is None and can_peek(tensor)


def if_finite(value: Tensor) -> Tensor | None:
    """A value that can be looked at, if it is finite."""
    return value if math.isfinite(value.item()) else None


@contextlib.contextmanager
def called(loss: nn.Module, key: str, roles: Sequence[str]) -> Iterator[None]:
    """Within the `with` block, `debug` tells of a loss under the name that a criterion has for it."""
    global _called  # noqa: PLW0603 - as above
    before, _called = _called, (loss, key, roles)
    try:
        yield
    finally:
        _called = before


def require_sound(loss: nn.Module, inputs: Sequence[Any], roles: Sequence[str]) -> None:
    """Refuses what is not finite among the inputs of a loss that may not look at them itself."""
    if not callable(getattr(loss, "settings", None)):  # no loss of ours
        for tensor, role in zip(inputs, roles, strict=True):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                require_finite(tensor, role, may_mask=True)


def require_sound_value(value: Any, key: str) -> None:
    """Refuses a loss that is not finite, and in the backward pass a gradient that comes to it so."""

    def look(gradient: Tensor) -> None:
        if _debugging and not bool(gradient.isfinite()):
            text = "the gradient that reaches the loss is not finite; look at what comes after the criterion"
            raise ValueError(f"{key}: {text}, such as a factor or a GradScaler")

    for part in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(part, Tensor) and not part.ndim:
            if not bool(part.isfinite()):
                raise ValueError(f"the loss is {part.item():g}, for inputs of which none says why")
            if part.requires_grad:
                part.register_hook(look)  # type: ignore[no-untyped-call]


def _watch(module: nn.Module, arguments: tuple[Any, ...]) -> Any:
    """Called before each module: the inputs of a loss, of which the gradients will be looked at."""
    if _called is not None:
        loss, key, roles = _called
        if module.__dict__.get("view_of", module) is not loss:
            return None
    elif hasattr(module, "get_loss_inputs"):
        found = module.get_loss_inputs()  # type: ignore[operator]
        key, roles = type(module).__name__, ((found,) if isinstance(found, str) else found)
    else:
        return None
    watched = (_watched(x, role, key) for x, role in zip(arguments, roles, strict=False))
    return (*watched, *arguments[len(roles) :])


def _watched(tensor: Any, name: str, key: str) -> Any:
    """The tensor, whose gradient is refused in the backward pass where it is not finite."""
    if not isinstance(tensor, Tensor) or not tensor.requires_grad:
        return tensor
    view = tensor.view_as(tensor)

    def look(gradient: Tensor) -> None:
        if not _debugging:
            return  # the block has ended before the backward pass
        message = f"{key}: the gradient of the loss for its {name} is not finite"
        _require_all(gradient.isfinite(), gradient, message)

    view.register_hook(look)  # type: ignore[no-untyped-call]
    return view


def require(condition: Tensor, message: Callable[[], str], short: str) -> None:
    """Refuses values for which `condition`, a single boolean, is false.

    Args:
        condition: whether the values are right.
        message: what is wrong, in words; called only when something is.
        short: the message of the asynchronous assertion, which cannot read the values.
    """
    if torch.compiler.is_compiling():
        torch._assert_async(condition, short)
    elif condition.device.type == "meta" or torch._C._are_functorch_transforms_active():
        return
    elif condition.device.type == "cpu" or _debugging:
        try:
            is_right = bool(condition)
        except RuntimeError:
            return  # a tracer, which has no values to look at
        if not is_right:
            raise ValueError(message())
    elif condition.device.type == "cuda":
        torch._assert_async(condition, short)


def require_each(good: Tensor, tensor: Tensor, message: str, rest: str = "") -> None:
    """As `require`, for each element: the message goes on with the first wrong one and its index, and then the rest."""

    def told() -> str:
        index = first(~good)
        return f"{message}: {tensor[index].item():g} at index {index}{rest}"

    require(good.all(), told, message)


def require_finite(tensor: Tensor, name: str, *, may_mask: bool = False) -> None:
    """In debug mode, refuses NaN and infinities, but for -inf where it may mark classes that cannot be."""
    if debugging():
        good = torch.isfinite(tensor) | (tensor == -math.inf) if may_mask else torch.isfinite(tensor)
        _require_all(good, tensor, f"{name} hold a value that is not finite")


def require_between(tensor: Tensor, name: str, low: float, high: float) -> None:
    """In debug mode, refuses values outside `low` to `high`, and NaN."""
    if debugging():
        _require_all((tensor >= low) & (tensor <= high), tensor, f"{name} hold a value outside {low:g} to {high:g}")


def require_labels(labels: Tensor, given_as: torch.dtype, highest: float = 1.0) -> None:
    """Refuses labels outside 0 to `highest`: integers always, for they may be class ids, others in debug mode.

    Args:
        labels: the labels, as floating-point numbers.
        given_as: the dtype in which they came.
        highest: 1 for yes-or-no labels, infinity for scores.
    """
    if given_as.is_floating_point or labels.numel() == 0:
        require_between(labels, "targets", 0, highest)
    elif given_as != torch.bool:
        low, high = labels.aminmax()
        if can_peek(labels) and low.item() >= 0 and high.item() <= highest:
            return

        def message() -> str:
            found = (low if low < 0 else high).item()
            where = f"{found:g} at index {first(labels == found)}"
            if highest > 1:
                return f"targets hold a negative score: {where}"
            return f"targets hold a value outside 0 to 1: {where}; class ids go to a loss for categories"

        require((low >= 0) & (high <= highest), message, "targets hold a label that is out of range")


def require_distribution(tensor: Tensor, name: str, axis: int) -> None:
    """In debug mode, refuses probabilities that are negative or do not sum to 1 along `axis`."""
    if debugging():
        require_between(tensor, name, 0, 1)
        sums = tensor.sum(axis)
        _require_all((sums - 1).abs() < 1e-2, sums, f"{name} are probabilities that do not sum to 1 over the classes")


def require_log_distribution(tensor: Tensor, name: str, axis: int) -> None:
    """In debug mode, refuses numbers of which the exponentials do not sum to 1 along `axis`."""
    if debugging():
        sums = tensor.logsumexp(axis)
        # As far as logarithms of many classes are off once they have been rounded to bfloat16.
        message = f"{name} are no log-probabilities; apply log_softmax, or use softmax_cross_entropy: their logsumexp"
        _require_all(sums.abs() < 0.05, sums, f"{message} over the classes is not 0")


def check_option(name: str, value: str, options: Sequence[str]) -> None:
    """Refuses a value that is not among the options.

    Raises:
        ValueError: it is none of them.
    """
    if value not in options:
        raise ValueError(f"{name} must be {', '.join(options[:-1])} or {options[-1]}, got {value!r}")


def first(condition: Tensor) -> tuple[int, ...]:
    """The index of the first element that is true."""
    return tuple(condition.nonzero()[0].tolist())


def _require_all(good: Tensor, tensor: Tensor, message: str) -> None:
    if not bool(good.all()):
        index = first(~good)
        raise ValueError(f"{message}: {tensor[index].item():g} at index {index}")
