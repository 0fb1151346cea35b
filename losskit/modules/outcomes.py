"""What comes of a loss in a criterion: a number, several, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from losskit.modules.distributed import GatheringLoss
from losskit.modules.reduction import divide


def _nothing(prediction: Any, loss: nn.Module) -> Tensor:
    """0, with a gradient of 0 for all that the loss would have used: data parallelism waits for each parameter's."""
    found = list(prediction.values()) if isinstance(prediction, Mapping) else [prediction]
    tensors = [x for x in (*found, *loss.parameters()) if isinstance(x, Tensor) and x.is_floating_point()]
    if not tensors:
        return torch.zeros(())
    # Of no elements, since 0 times infinity is NaN.
    return torch.stack([x.reshape(-1)[:0].sum().float() for x in tensors]).sum()


def of_other_ranks(prediction: Any, loss: nn.Module, predictions: Mapping[Any, Any]) -> Tensor | None:
    """A loss that this rank has nothing for, where it compares the samples of all ranks."""
    if not isinstance(loss, GatheringLoss) or not loss.gather:
        return None
    found = [x for given in predictions.values() for x in (given.values() if isinstance(given, Mapping) else [given])]
    value = loss.of_other_ranks(next((x.device for x in found if isinstance(x, Tensor)), None))
    return None if value is None else value + _nothing(prediction, loss)


def told_by_part(key: str, value: Any, parts: dict[str, Tensor], prediction: Any, loss: Any) -> Tensor:
    """What a loss adds that returns several parts, or nothing."""
    if value is None:
        nothing = _nothing(prediction, loss)
        parts[key] = nothing.detach()
        return nothing
    if not isinstance(value, Mapping) or not value:
        raise TypeError(_no_scalar(value))
    for name, part in value.items():
        if not isinstance(part, Tensor) or part.dim():
            raise TypeError(f"{name!r}: {_no_scalar(part)}")
        parts[f"{key}/{name}"] = part.detach()
    total: Tensor = sum(value.values())  # type: ignore[assignment]
    return total


def _no_scalar(value: Any) -> str:
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    return f"the loss returned {found}, but a scalar tensor is needed to minimise it"


def divided(value: Any, normalizer: Tensor | float) -> Any:
    """A loss, or each of its parts, divided by a number."""
    if isinstance(value, Mapping):
        return {name: divide(part, normalizer) for name, part in value.items()}
    return divide(value, normalizer)
