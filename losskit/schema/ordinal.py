"""Losses for classes that have an order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class CornLossConfig(ReducedLossConfig):
    num_classes: int | None = schema_utils.IntegerRange(
        default=None,
        min=2,
        allow_none=True,
        description="How many classes there are. The logits have one column less, or as many, of which the last is not "
        "used; without it, and where the feature does not say it either, there is one class more than logits.",
        examples=[3],
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        if self.num_classes is not None and feature.num_classes not in (None, self.num_classes):
            message = f"is {self.num_classes}, but the feature has {feature.num_classes} classes"
            yield Problem("num_classes", message, "LK206")

    def settings(self, feature: FeatureContext | None = None) -> dict[str, Any]:
        settings = super().settings(feature)
        if self.num_classes is None and feature is not None:
            settings["num_classes"] = feature.num_classes
        return settings
