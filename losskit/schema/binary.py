"""Losses for labels that are yes or no."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from losskit.constants import BINARY
from losskit.schema import fields as schema_utils
from losskit.schema.base import BaseLossConfig, FeatureContext, Problem, dataclass
from losskit.schema.noise import confidence_penalty, label_smoothing, robust_lambda
from losskit.schema.reduced import ReducedLossConfig, reduction_with_batchmean


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


def _label_weights() -> Any:
    return schema_utils.ClassWeights(
        description="How much each label counts, present or absent: a list in the order of the class ids, or a mapping "
        "from class name. The mean does not divide by them."
    )


def _single_output_problems(config: BaseLossConfig, feature: FeatureContext) -> Iterator[Problem]:
    """A binary feature has one output, whose numbers per class could be taken for numbers per sample."""
    for name in config.class_settings() if feature.type == BINARY else ():
        if isinstance(getattr(config, name), (list, Mapping)):
            cure = "give one number as `pos_weight` of `bce_with_logits`, or weigh the loss as a whole with `weight`"
            yield Problem(name, "has a number per class, but a binary feature has a single output", help=cure)


@dataclass
class BceLossConfig(ReducedLossConfig):
    class_weights: Any = _label_weights()
    reduction: str = reduction_with_batchmean("mean")

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from _single_output_problems(self, feature)


@dataclass
class BceWithLogitsLossConfig(ReducedLossConfig):
    pos_weight: Any = schema_utils.FloatOrClassWeights(
        default=None,
        description="How much the presence of a label counts beside its absence; raise it where labels are rare. A "
        "number, or one per class: a list in the order of the class ids, or a mapping from class name.",
        examples=[3.0, [1.0, 2.0, 3.0]],
    )
    class_weights: Any = _label_weights()
    label_smoothing: float = label_smoothing("yes and no")
    reduction: str = reduction_with_batchmean("mean")

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from _single_output_problems(self, feature)
