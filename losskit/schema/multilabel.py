"""Losses for sets of labels, any number of which may be right."""

from __future__ import annotations

from typing import Any

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.binary import BceWithLogitsLossConfig
from losskit.schema.reduced import ReducedLossConfig, reduction_with_batchmean


@dataclass
class SigmoidCrossEntropyLossConfig(ReducedLossConfig):
    class_weights: Any = schema_utils.ClassWeights(
        description="How much the presence of each label counts beside its absence, as Ludwig has it: a list in the "
        "order of the class ids, or a mapping from class name."
    )


@dataclass
class LogitBceLossConfig(BceWithLogitsLossConfig):
    reduction: str = reduction_with_batchmean("batchmean")


@dataclass
class TripleLogitBceLossConfig(ReducedLossConfig):
    reduction: str = reduction_with_batchmean("batchmean")


@dataclass
class M4cDecodingBceWithMaskLossConfig(ReducedLossConfig):
    pass
