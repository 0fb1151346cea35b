"""Cross-entropy of sequences: one class per step, of which some do not count."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.classification import SoftmaxCrossEntropyLossConfig
from losskit.schema.noise import ignore_index
from losskit.schema.reduced import ReducedLossConfig

# The class id of padding in Ludwig's vocabularies.
LUDWIG_PADDING = 2


@dataclass
class SequenceSoftmaxCrossEntropyLossConfig(SoftmaxCrossEntropyLossConfig):
    ignore_index: int | None = ignore_index(LUDWIG_PADDING)
    unique: bool = schema_utils.Boolean(
        default=False,
        description="Whether each class counts once per sequence, at its first step, so that repetitions add nothing.",
    )


@dataclass
class NextTokenSoftmaxCrossEntropyLossConfig(SequenceSoftmaxCrossEntropyLossConfig):
    ignore_index: int | None = ignore_index()
    shift: bool = schema_utils.Boolean(
        default=True,
        description="Whether the logits of each step are compared with the class of the next one; `false` compares "
        "them with that of the same step, for labels that have been moved already.",
    )


@dataclass
class CaptionCrossEntropyLossConfig(ReducedLossConfig):
    ignore_index: int | None = ignore_index()
