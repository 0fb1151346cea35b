"""What losses have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from losskit.constants import IMAGE, LOGITS, SEQUENCE, SET, TEXT
from losskit.modules.reduction import REDUCTIONS, check_reduction

if TYPE_CHECKING:
    from typing_extensions import Self


class LogitsInputsMixin:
    """For losses that take the logits, a model's outputs before they become probabilities or labels."""

    @classmethod
    def get_loss_inputs(cls) -> str | tuple[str, ...]:
        """The keys of the predictions that `forward` takes, in its order."""
        return LOGITS


class Loss(nn.Module, LogitsInputsMixin):
    """A loss with a reduction, one of `reductions`.

    A subclass keeps each argument of its constructor in an attribute of the same name.
    """

    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS
    # For what is no sum over items: whether each element may be left out by itself, not only a sample.
    is_elementwise: ClassVar[bool] = False
    # Settings that act only where several processes train together.
    distributed_settings: ClassVar[tuple[str, ...]] = ()
    _settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = check_reduction(reduction, self.reductions)
        self._constants: dict[str, Any] = {}

    def count(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """How many items, or which sum of weights, the mean divides by.

        Args:
            targets: as `forward` takes them.
            inputs: those of `forward`, in its order; only what takes no targets needs them.
            optional: the optional targets of `forward`.

        Raises:
            TypeError: the loss is no sum over a count, or the targets do not say the count.
        """
        raise TypeError(f"{type(self).__name__} is no sum over items that is divided by their count")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._settings = tuple(
            name for name, p in inspect.signature(cls.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY
        )

    def settings(self) -> dict[str, Any]:
        """The arguments of the constructor, by name: what `forward` passes on to the loss's function."""
        # Not by getattr, in which modules look for everything else first.
        own, buffers = self.__dict__, self._buffers
        return {
            name: own[name] if name in own else buffers[name] if name in buffers else getattr(self, name)
            for name in self._settings
        }

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={self._constants.get(name, value)!r}" for name, value in self.settings().items())

    def set_constant(self, name: str, values: Any) -> None:
        """Keeps numbers of the config as a tensor: it moves with the module, and stays out of its saved state."""
        if values is not None:
            self._constants[name] = torch.as_tensor(values, dtype=torch.float64, device="cpu").tolist()
        self.register_buffer(name, None if values is None else _exact(self._constants[name]), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # `.half()` would round the config's numbers, and not every device has float64, so they are moved by hand.
        constants = {name: self._buffers[name] for name in self._constants}
        self._buffers.update(dict.fromkeys(constants))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.zeros(())).device
        for name, tensor in constants.items():
            has_values = tensor is not None and tensor.device.type != "meta"
            self._buffers[name] = _exact(tensor if has_values else self._constants[name], device)
        return self


class AdditiveLoss(Loss):
    """A loss whose mean is a sum over items divided by a count that depends on the targets alone.

    `forward` takes `normalizer=`, so that parts of a batch can be divided by the count of the whole. Items are what
    `reduction: none` has values of.
    """

    # What the mean of a batch divides by at least.
    least_count: float = 0
    # What stands for the target of an item that does not count.
    harmless_target = 0
    # Whether targets may be class ids, and whether they can be nothing else.
    takes_ids = False
    takes_ids_alone = False
    # Along which axis of the inputs the samples lie.
    sample_axis = 0

    def count(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """How many items, or which sum of weights, the mean divides by."""
        total = self.count_of_part(*targets, inputs=inputs, **optional)
        return total.clamp_min(self.least_count) if self.least_count else total

    def count_of_part(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """The count of what may be a part of a batch, and adds up to that of the whole: without `least_count`."""
        counts = self.item_counts(*targets, inputs=inputs, **optional)
        if self.reduction == "batchmean":
            return torch.full((), len(counts), device=counts.device)
        if any(counts.stride()) or not counts.numel():
            return counts.sum()
        return counts.numel() * counts[(0,) * counts.ndim]  # one number for all, so there is nothing to add up

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """How much each item adds to the count: 1, unless a subclass ignores or weighs some.

        Shapes: that of the unreduced values, or their first axes. The arguments are those of `count`.
        """
        return ones(targets[0].shape, targets[0])

    def item_values(self, *arguments: Any, **optional: Any) -> Tensor:
        """One value for each item, of which the mean is the sum divided by the count; called as `forward` is."""
        if torch.compiler.is_compiling():  # which knows no second view of a module
            reduction, self.reduction = self.reduction, "none"
            try:
                values: Tensor = self(*arguments, **optional)
                return values
            finally:
                self.reduction = reduction
        # Another thread may be using this one.
        view = object.__new__(type(self))
        view.__dict__ = {**self.__dict__, "reduction": "none", "view_of": self}
        values = view(*arguments, **optional)
        return values

    def item_weights(self, weights: Tensor) -> Tensor:
        """Weights of the targets' items as weights of the values, where a subclass has them elsewhere."""
        return weights


class RowsLoss(AdditiveLoss):
    """A loss with one value per row, such as a vector, or the scores of all classes, along the last axis."""

    def item_counts(self, *targets: Tensor, inputs: Sequence[Tensor] = (), **optional: Any) -> Tensor:
        """1 for each row."""
        return ones(targets[0].shape[:-1], targets[0])


class ClassAxisMixin:
    """For losses with a class axis: 1 as in torch, the last one for sequences and text, inferred where unknown."""

    class_axis: int | None = None
    is_for_images = False

    def set_feature_type(self, feature_type: str) -> None:
        """Says what kind of feature the loss is for; building from a config does."""
        self.class_axis = -1 if feature_type in (SEQUENCE, TEXT) else 1
        self.is_for_images = feature_type == IMAGE

    def require_class_axis(self, logits: Tensor, name: str = "logits") -> None:
        """Refuses images without a class axis, of which the height would be taken for the classes."""
        if self.is_for_images and isinstance(logits, Tensor) and logits.ndim < 4:
            raise ValueError(
                f"{name} {tuple(logits.shape)} of an image have no class axis: (batch, classes, height, width); for a "
                "single mask per image there are bce_with_logits, dice, focal and lovasz_hinge"
            )


class ScoresLoss(AdditiveLoss):
    """For losses whose targets are scores of classes, or class ids but for sets, which may have as many rows."""

    takes_ids = True

    def set_feature_type(self, feature_type: str) -> None:
        """Says what kind of feature the loss is for; building from a config does."""
        self.takes_ids = feature_type != SET


def for_feature(module: nn.Module, feature_type: str | None) -> nn.Module:
    """The module, told what kind of feature it is for where it asks for that."""
    set_feature_type: Any = getattr(module, "set_feature_type", None)
    if feature_type is not None and set_feature_type is not None:
        set_feature_type(feature_type)
    return module


def ones(shape: Sequence[int], like: Tensor) -> Tensor:
    """Ones on the device of `like`, which take the memory of one number."""
    return torch.ones((), dtype=torch.long, device=like.device).expand(shape)


def _exact(values: Any, device: torch.device | None = None) -> Tensor:
    dtype = torch.float32 if device is not None and device.type == "mps" else torch.float64
    if isinstance(values, Tensor):
        return values.detach().to(device=device, dtype=dtype)
    return torch.tensor(values, dtype=dtype, device=device)
