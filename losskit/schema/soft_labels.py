"""Cross-entropy of labels that name several classes, each with its share."""

from __future__ import annotations

from collections.abc import Iterator

from losskit.constants import SET
from losskit.diagnostics import WARNING
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.noise import DEFAULT_IGNORE_INDEX, ignore_index, ignore_index_problems, label_smoothing
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class SoftLabelCrossEntropyLossConfig(ReducedLossConfig):
    normalize_targets: bool = schema_utils.Boolean(
        default=True,
        description="Whether the scores of each item are divided by their sum, so that every item counts alike; "
        "otherwise an item counts by the sum of its scores.",
    )
    ignore_index: int | None = ignore_index()

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from ignore_index_problems(self.ignore_index, feature)
        if feature.type == SET and self.ignore_index not in (None, DEFAULT_IGNORE_INDEX) and self.ignore_index >= 0:
            message = "has no effect on several labels: only a number below 0 can stand in place of one"
            yield Problem("ignore_index", message, "LK303", WARNING)


@dataclass
class LabelSmoothingCrossEntropyLossConfig(ReducedLossConfig):
    label_smoothing: float = label_smoothing("the classes that `spread` names", default=0.1)
    spread: str = schema_utils.StringOptions(
        options=["others", "uniform"],
        default="others",
        description="Which classes get a share: all but the label's own (`others`, as in MMF), so that the label keeps "
        "exactly the rest, or all alike (`uniform`, as in torch).",
    )
    ignore_index: int | None = ignore_index()

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        if self.label_smoothing == 0 and self.spread != "others":
            yield Problem("spread", "has no effect while `label_smoothing` is 0")
