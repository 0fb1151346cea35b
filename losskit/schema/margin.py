"""Losses that ask for scores to be apart by a margin, and for nothing beyond it."""

from __future__ import annotations

from typing import Any

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class SoftMarginLossConfig(ReducedLossConfig):
    pass


@dataclass
class HingeEmbeddingLossConfig(ReducedLossConfig):
    margin: float = schema_utils.PositiveFloat(
        default=1.0, description="The distance from which on unlike pairs cost nothing.", examples=[2.0]
    )


@dataclass
class MarginRankingLossConfig(ReducedLossConfig):
    margin: float = schema_utils.Float(
        default=0.0,
        description="By how much the right input must be ahead before a pair costs nothing; with 0, a hair's breadth "
        "is enough.",
        examples=[0.5],
    )


@dataclass
class MultiMarginLossConfig(ReducedLossConfig):
    p: int = schema_utils.IntegerRange(
        default=1,
        min=1,
        max=2,
        description="Whether shortfalls count as they are (1) or squared (2), so that large ones dominate.",
    )
    margin: float = schema_utils.PositiveFloat(
        default=1.0,
        description="By how much the right class must be ahead of each other class before that costs nothing.",
        examples=[2.0],
    )
    class_weights: Any = schema_utils.ClassWeights(
        description="How much items of each class count: a list in the order of the class ids, or a mapping from class "
        "name. The mean divides by the number of items, as in torch."
    )


@dataclass
class MultiLabelMarginLossConfig(ReducedLossConfig):
    target_form: str = schema_utils.StringOptions(
        options=["auto", "multi_hot", "ids"],
        default="auto",
        description="What targets are: a 0 or 1 per class (`multi_hot`), or the ids of the labels, then -1 up to the "
        "number of classes (`ids`, as in torch). `auto` takes them for ids where a value of the batch is "
        "negative or above 1.",
    )


@dataclass
class MultiLabelSoftMarginLossConfig(ReducedLossConfig):
    class_weights: Any = schema_utils.ClassWeights(
        description="How much each label counts, whether it applies or not: a list in the order of the class ids, or a "
        "mapping from class name. The mean divides by the number of classes, as in torch."
    )
