"""Losses between two real-valued tensors."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import BaseLossConfig, dataclass
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


@dataclass
class SmoothL1LossConfig(ReducedLossConfig):
    beta: float = schema_utils.NonNegativeFloat(
        default=1.0,
        description="The error up to which the loss is quadratic; beyond it, it grows with slope 1. 0 is plain "
        "absolute error.",
        examples=[0.5],
    )


@dataclass
class MeanAbsolutePercentageErrorLossConfig(ReducedLossConfig):
    eps: float = schema_utils.PositiveFloat(
        default=1.17e-6,
        description="The smallest size of a target that errors are divided by; raise it where targets near 0 would "
        "drown all others.",
        examples=[0.1],
    )
    as_percent: bool = schema_utils.Boolean(
        default=False, description="Whether the value is in percent, as in Keras, in place of a fraction."
    )


@dataclass
class RootMeanSquaredErrorLossConfig(BaseLossConfig):
    eps: float = schema_utils.NonNegativeFloat(
        default=0.0,
        description="Added to the mean inside the root: keeps the gradient from jumping near a perfect fit, at the "
        "price of a value that never reaches 0.",
        examples=[0.1],
    )


@dataclass
class RootMeanSquaredPercentageErrorLossConfig(BaseLossConfig):
    eps: float = schema_utils.PositiveFloat(
        default=1e-4,
        description="The smallest size of a target that errors are divided by; raise it where targets near 0 would "
        "drown all others.",
        examples=[0.1],
    )
