"""Losses between two real-valued tensors."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class MeanSquaredErrorLossConfig(ReducedLossConfig):
    pass


@dataclass
class MeanAbsoluteErrorLossConfig(ReducedLossConfig):
    pass


@dataclass
class HuberLossConfig(ReducedLossConfig):
    delta: float = schema_utils.PositiveFloat(
        default=1.0, description="The error up to which the loss is quadratic; beyond it, it grows linearly."
    )
