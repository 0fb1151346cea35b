"""Losses for one class out of several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from losskit.constants import CATEGORY_DISTRIBUTION
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.noise import (
    confidence_penalty,
    ignore_index,
    ignore_index_problems,
    label_smoothing,
    robust_lambda,
)
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class SoftmaxCrossEntropyLossConfig(ReducedLossConfig):
    class_weights: Any = schema_utils.ClassWeights(
        description="How much each class counts: a list in the order of the class ids, or a mapping from class "
        "name. The mean divides by the weights of the labels."
    )
    ignore_index: int | None = ignore_index()
    label_smoothing: float = label_smoothing("all classes")
    robust_lambda: float = robust_lambda()
    confidence_penalty: float = confidence_penalty()
    class_similarities: Any = schema_utils.Matrix(
        description="How alike classes are: a row per class. A softmax over its row replaces each label, so that "
        "mixing up similar classes costs less.",
        examples=[[[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]],
    )
    class_similarities_temperature: float = schema_utils.NonNegativeFloat(
        default=0.0,
        description="The temperature of the softmax over `class_similarities`; the higher, the softer the labels. 0 "
        "switches the similarities off.",
        examples=[0.5],
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from ignore_index_problems(self.ignore_index, feature)
        rows = self.class_similarities
        if rows is not None and feature.type == CATEGORY_DISTRIBUTION:
            yield Problem("class_similarities", "has no effect on a feature whose targets are distributions already")
        if rows is None:
            if self.class_similarities_temperature > 0:
                yield Problem("class_similarities_temperature", "has no effect without `class_similarities`")
            return
        if self.class_similarities_temperature == 0:
            cure = "set `class_similarities_temperature` above 0"
            yield Problem("class_similarities", "has no effect while `class_similarities_temperature` is 0", help=cure)
        wrong = next((row for row in rows if len(row) != len(rows)), None)
        if wrong is not None:
            yield Problem("class_similarities", f"has {len(rows)} rows, but one of {len(wrong)} values", "LK206")
        elif feature.num_classes not in (None, len(rows)):
            message = f"has {len(rows)} rows, but the feature has {feature.num_classes} classes"
            yield Problem("class_similarities", message, "LK206")
