"""Lets loss classes that were written for MMF be registered as they are."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from losskit.constants import EVERYTHING, TARGETS


class SampleList(dict[str, Any]):
    """A mapping whose values are attributes too, as MMF's classes expect of their sample list."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the sample list has no {name!r}, but {', '.join(map(repr, self))}") from None


@functools.cache
def from_mmf(loss: type[nn.Module]) -> type[nn.Module]:
    """The same class, with a `forward` that losskit can call.

    MMF calls a loss with the sample list, which holds the targets, and with the model's output. The class that is
    returned gets all predictions and all targets of its feature and passes them on: a single tensor is the model
    output's `scores`, or the sample list's `targets`. Constructor and settings stay as they are. A result with one
    element, such as MMF's shape of `(1,)`, becomes a scalar.

    Args:
        loss: a class with `forward(sample_list, model_output)`, which may return a tensor or a dict of them.

    >>> class Gap(torch.nn.Module):
    ...     def __init__(self, scale: float = 1.0):
    ...         super().__init__()
    ...         self.scale = scale
    ...
    ...     def forward(self, sample_list, model_output):
    ...         return self.scale * (model_output["scores"] - sample_list.targets).abs().mean()
    >>> from_mmf(Gap)(scale=2.0)(torch.tensor([1.0]), torch.tensor([4.0]))
    tensor(6.)
    """

    class Adapted(loss):  # type: ignore[misc, valid-type]
        @classmethod
        def get_loss_inputs(cls) -> str:
            return EVERYTHING

        @classmethod
        def get_loss_targets(cls) -> tuple[str, ...]:
            return (EVERYTHING,)

        def forward(self, predictions: Any, targets: Any) -> Any:
            model_output = predictions if isinstance(predictions, Mapping) else {"scores": predictions}
            sample_list = targets if isinstance(targets, Mapping) else {TARGETS: targets}
            if type(sample_list) is dict:
                sample_list = SampleList(sample_list)
            result = super().forward(sample_list, model_output)
            if isinstance(result, Mapping):
                return {key: _scalar(value) for key, value in result.items()}
            return _scalar(result)

        def __reduce_ex__(self, protocol: Any) -> Any:
            # The class stands in no module, so it is found again through the one that it adapts.
            return _restored, (loss, self.__dict__)

    Adapted.__name__, Adapted.__qualname__ = loss.__name__, loss.__qualname__
    Adapted.__module__, Adapted.__doc__ = loss.__module__, loss.__doc__
    return Adapted


def _restored(loss: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    adapted = from_mmf(loss)  # type: ignore[arg-type]
    module = adapted.__new__(adapted)
    module.__dict__.update(state)
    return module


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.tensor(float(value))
    return value.reshape(()) if value.numel() == 1 else value
