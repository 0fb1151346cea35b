"""Losses of models that return the logarithms of probabilities."""

from __future__ import annotations

from typing import Any

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.noise import ignore_index
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class NllLossConfig(ReducedLossConfig):
    class_weights: Any = schema_utils.ClassWeights(
        description="How much each class counts: a list in the order of the class ids, or a mapping from class "
        "name. The mean divides by the weights of the labels."
    )
    ignore_index: int | None = ignore_index()


@dataclass
class NllLossLossConfig(ReducedLossConfig):
    pass
