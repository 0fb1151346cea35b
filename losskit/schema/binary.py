"""Losses for features with two classes."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.noise import confidence_penalty, robust_lambda
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class BinaryWeightedCrossEntropyLossConfig(ReducedLossConfig):
    positive_class_weight: float | None = schema_utils.NonNegativeFloat(
        default=None,
        allow_none=True,
        description="How much positive examples count beside negative ones; raise it where positives are rare.",
        examples=[3.0],
    )
    robust_lambda: float = robust_lambda()
    confidence_penalty: float = confidence_penalty()
