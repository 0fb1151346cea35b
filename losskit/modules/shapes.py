"""Checks shapes and dtypes before any arithmetic, and brings inputs into the form that the formulas expect."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.modules import checking, sharing

_HALF = (torch.float16, torch.bfloat16)
FULL = (torch.float32, torch.float64)


def floating(tensor: Tensor, name: str, *, may_mask: bool = False) -> Tensor:
    """`tensor` in float32, or in float64 if it is that: sums and powers need the range of float32.

    With `may_mask`, -inf marks classes that cannot be.

    Raises:
        TypeError: it is no tensor of floating-point numbers.
    """
    require_floating(tensor, name, may_mask=may_mask)
    return sharing.once(Tensor.float, (tensor,)) if tensor.dtype in _HALF else tensor


def require_floating(tensor: Tensor, name: str, *, may_mask: bool = False) -> None:
    """Refuses what is no tensor of floating-point numbers; see `floating`."""
    require_tensor(tensor, name)
    if not tensor.is_floating_point():
        raise TypeError(f"{name} are {_dtype(tensor)}, but must be floating-point numbers; use {name}.float()")
    checking.require_finite(tensor, name, may_mask=may_mask)


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """A `with` block in which the device of `tensor` computes in the dtypes that it is given."""
    kind = tensor.device.type
    # To look whether there is anything to switch off is a hundred times as fast as to do it.
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return contextlib.nullcontext()
    return torch.autocast(kind, enabled=False)


def alike(
    predictions: Tensor, targets: Tensor, names: tuple[str, str] = ("predictions", "targets")
) -> tuple[Tensor, Tensor]:
    """Both in the dtype of the predictions, and at least float32.

    Raises:
        TypeError: the predictions are no floating-point numbers.
        ValueError: the shapes differ; nothing is ever broadcast.
    """
    if are_usual(predictions, targets):
        return predictions, targets
    predictions = floating(predictions, names[0])
    require_alike(predictions, targets, names)
    if targets.is_floating_point():
        checking.require_finite(targets, names[1])
    return predictions, targets.to(predictions.dtype)


def are_alike(predictions: Tensor, targets: Tensor) -> bool:
    """Whether there is nothing to convert, as is most often so."""
    return (
        isinstance(predictions, Tensor)
        and isinstance(targets, Tensor)
        and predictions.dtype is targets.dtype
        and predictions.dtype in FULL
        and predictions.shape == targets.shape
    )


def are_usual(predictions: Tensor, targets: Tensor) -> bool:
    """Whether there is nothing to convert, nothing to look at, and anything at all."""
    return are_alike(predictions, targets) and not checking.debugging() and predictions.numel() > 0


def require_tensor(tensor: Tensor, name: str) -> None:
    """Refuses what is no tensor, such as a list."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")


def require_integers(targets: Tensor) -> None:
    """Refuses numbers that may have a fraction."""
    if targets.is_floating_point() or targets.is_complex():
        raise TypeError(f"targets are {_dtype(targets)}, but class ids must be integers; use targets.long()")


def require_last_axis(logits: Tensor, axes: str = "(batch, ..., classes)") -> None:
    """Refuses a single number."""
    if logits.ndim == 0:
        raise ValueError(f"logits are a single number, but must have a class axis: {axes}")


def require_real(tensor: Tensor, name: str) -> None:
    """Refuses complex numbers, half of which a conversion would drop."""
    if tensor.is_complex():
        raise TypeError(f"{name} are {_dtype(tensor)}, but must be real numbers")


def require_alike(predictions: Tensor, targets: Tensor, names: tuple[str, str] = ("predictions", "targets")) -> None:
    """Refuses tensors of different shapes, and complex targets."""
    for tensor, name in ((predictions, names[0]), (targets, names[1])):
        require_tensor(tensor, name)
    if predictions.shape != targets.shape:
        raise ValueError(_mismatch(predictions, targets, names))
    require_real(targets, names[1])


def signs(targets: Tensor, dtype: torch.dtype, name: str = "targets") -> Tensor:
    """-1 and 1 for labels that are -1 or 1, or 0 or 1, or bool.

    Raises:
        TypeError: they are no tensor.
        ValueError: there are others.
    """
    require_tensor(targets, name)
    require_real(targets, name)
    if targets.dtype == dtype and checking.can_peek(targets) and bool((targets.abs() == 1).all()):
        return targets
    if targets.dtype != torch.bool:
        known = (targets == 1) | (targets == 0) | (targets == -1)
        checking.require_each(known, targets, f"{name} hold a value other than -1 and 1, or 0 and 1")
    return torch.where(targets > 0, 1.0, -1.0).to(dtype)


class Classes(NamedTuple):
    """Logits, and targets that are class ids or, alike in shape, probabilities of the classes."""

    logits: Tensor
    targets: Tensor
    axis: int  # the class axis of the logits
    are_ids: bool
    valid: Tensor | None  # for ids: which are not ignored; None where none can be

    def of(self, logits: Tensor) -> Classes:
        """The same with other logits, and what was read without `upcast` in float32 at least."""
        logits = floating(logits, "logits", may_mask=True)
        return self._replace(logits=logits, targets=self.targets if self.are_ids else self.targets.to(logits.dtype))

    def num_items(self) -> Tensor | int:
        """How many items count."""
        if self.valid is not None:
            return self.valid.sum()
        return self.logits.numel() // max(self.logits.shape[self.axis], 1)


def read_classes(
    logits: Tensor,
    targets: Tensor,
    *,
    axis: int | None = None,
    ignore_index: int | None = None,
    name: str = "logits",
    upcast: bool = True,
) -> Classes:
    """Logits `(batch, classes, ...)`, as torch has them, or `(batch, ..., classes)`, and targets that fit.

    Integer targets are ids, `(batch, ...)`; floating-point ones are probabilities, shaped like the logits. `axis` is
    the class axis, 1 or -1; without it, the one with which the ids fit, and 1 where both do. Ignored ids become 0, so
    that they can index; `valid` says where they were. `name` is what messages call the logits. Without `upcast`,
    float16 and bfloat16 stay.

    Raises:
        TypeError: the logits are no floating-point numbers, or class ids are.
        ValueError: the shapes do not fit, or an id is out of range.
    """
    found: Classes = sharing.once(_read_classes, (logits, targets), axis, ignore_index, name, upcast)
    return found


def _read_classes(
    logits: Tensor, targets: Tensor, axis: int | None, ignore_index: int | None, name: str, upcast: bool
) -> Classes:
    if upcast:
        logits = floating(logits, name, may_mask=True)
    else:
        require_floating(logits, name, may_mask=True)
    require_tensor(targets, "targets")
    if logits.ndim == 0:
        raise ValueError(f"{name} () are a single number, but must have a class axis: (batch, classes, ...)")
    if targets.is_floating_point() and targets.shape == logits.shape:
        axis = _class_axis(logits, axis)
        checking.require_distribution(targets, "targets", axis)
        return Classes(logits, targets.to(logits.dtype) if upcast else targets, axis, False, None)
    fitting = [a for a in (1, -1) if _without(logits, a) == tuple(targets.shape)]
    if not fitting or (axis is not None and axis not in fitting):
        raise ValueError(_ids_mismatch(logits, targets, axis, name))
    if targets.is_floating_point() or targets.is_complex():
        if logits.shape[_class_axis(logits, fitting[0])] == 1:
            require_alike(logits, targets, (name, "targets"))
        raise TypeError(
            f"targets are {_dtype(targets)} of shape {_shape(targets)}, but class ids must be integers; use "
            f"targets.long(), or give probabilities of the shape of the {name}, {_shape(logits)}"
        )
    axis = _class_axis(logits, fitting[0] if axis is None else axis)
    ids = targets.long()
    if _all_count(ids, logits.shape[axis], ignore_index):
        return Classes(logits, ids, axis, True, None)
    valid = None
    if ignore_index is not None:
        valid = ids != ignore_index
        ids = ids.masked_fill(~valid, 0)
    _require_ids(ids, logits, axis, name)
    if torch.compiler.is_compiling():
        # A compiled kernel that meets an id out of range ends the process before the assertion can speak.
        ids = ids.clamp(0, max(logits.shape[axis] - 1, 0))
    return Classes(logits, ids, axis, True, valid)


def _all_count(ids: Tensor, num_classes: int, ignore_index: int | None) -> bool:
    """Whether it can be seen at a glance that all ids are classes, and none is to be ignored."""
    if not checking.can_peek(ids) or ids.numel() == 0:
        return False
    low, high = (extreme.item() for extreme in ids.aminmax())
    return low >= 0 and high < num_classes and (ignore_index is None or not low <= ignore_index <= high)


def require_rows_of_classes(logits: Tensor, targets: Tensor, name: str = "logits") -> None:
    """Refuses all but logits `(batch, classes)`, with targets of that shape or ids `(batch,)`."""
    require_tensor(targets, "targets")
    if logits.ndim != 2 or targets.shape not in (logits.shape, logits.shape[:1]):
        if logits.ndim == 2 or targets.ndim == logits.ndim - 1:
            raise ValueError(_ids_mismatch(logits, targets, 1, name))
        raise ValueError(
            f"{name} {_shape(logits)} and targets {_shape(targets)} do not fit: the {name} must be (batch, classes)"
        )


def _require_ids(ids: Tensor, logits: Tensor, axis: int, name: str) -> None:
    if ids.numel() == 0:
        return
    num_classes = logits.shape[axis]
    in_range = ((ids >= 0) & (ids < num_classes)).all()

    def message() -> str:
        index = checking.first((ids < 0) | (ids >= num_classes))
        text = f"targets hold the class id {ids[index].item()} at index {index}, but the {name} {_shape(logits)} have"
        if num_classes == 1:
            return f"{text} a single class; for yes-or-no targets drop the class axis: {name}.squeeze(1)"
        return f"{text} {num_classes} classes: 0 to {num_classes - 1}"

    checking.require(in_range, message, "targets hold a class id that is out of range")


def _class_axis(logits: Tensor, axis: int | None) -> int:
    """The axis, counted from 0; logits without a batch have one axis only."""
    return 0 if logits.ndim == 1 else 1 if axis in (1, None) else logits.ndim - 1


def _without(logits: Tensor, axis: int) -> tuple[int, ...]:
    shape = list(logits.shape)
    del shape[_class_axis(logits, axis)]
    return tuple(shape)


def _mismatch(predictions: Tensor, targets: Tensor, names: tuple[str, str]) -> str:
    text = f"{names[0]} {_shape(predictions)} and {names[1]} {_shape(targets)} differ in shape"
    with contextlib.suppress(RuntimeError):
        text += f" and would broadcast to {_broadcast(predictions, targets)}"
    for tensor, other, name in ((predictions, targets, names[0]), (targets, predictions, names[1])):
        if tensor.shape == (*other.shape, 1):
            return f"{text}; drop the last axis: {name}.squeeze(-1)"
        if (
            tensor.ndim == other.ndim + 1
            and tensor.shape[:1] + tensor.shape[2:] == other.shape
            and tensor.shape[1] == 1
        ):
            return f"{text}; drop the channel axis: {name}.squeeze(1)"
    return f"{text}; both must have the same shape"


def _broadcast(one: Tensor, other: Tensor) -> tuple[int, ...]:
    return tuple(torch.broadcast_shapes(one.shape, other.shape))  # type: ignore[no-untyped-call]


def _ids_mismatch(logits: Tensor, targets: Tensor, axis: int | None, name: str) -> str:
    text = f"{name} {_shape(logits)} and targets {_shape(targets)} do not fit"
    expected = [_without(logits, a) for a in ((1, -1) if axis is None else (axis,))]
    if targets.shape and targets.shape[-1] == 1 and tuple(targets.shape[:-1]) in expected:
        return f"{text}; drop the targets' last axis: targets.squeeze(-1)"
    if targets.ndim > 1 and targets.shape[1] == 1 and tuple(targets.shape[:1] + targets.shape[2:]) in expected:
        return f"{text}; drop the targets' channel axis: targets.squeeze(1)"
    if targets.shape == logits.shape:
        return (
            f"{text}: {_dtype(targets)} targets are class ids; use targets.float() for probabilities or several labels"
        )
    shapes = " or ".join(map(str, dict.fromkeys(expected)))
    return f"{text}: class ids must have the shape {shapes}, and probabilities that of the {name}"


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def class_constant(values: Tensor | None, name: str, logits: Tensor, axis: int, role: str = "logits") -> Tensor | None:
    """One number per class in the dtype of the logits, in float32 at least; messages call these by their `role`.

    Raises:
        ValueError: there are not as many as the logits have classes.
    """
    if values is None:
        return None
    values = torch.as_tensor(values, device=logits.device)
    if values.shape != (logits.shape[axis],):
        found = f"{name} has {values.numel()} values"
        raise ValueError(f"{found}, but the {role} {_shape(logits)} have {logits.shape[axis]} classes")
    return values.to(torch.promote_types(logits.dtype, torch.float32))


def along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """`values`, shaped so that they lie along `axis` of a tensor with `ndim` axes."""
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)
