"""Cross-entropy that looks at hard examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from losskit.constants import BINARY, CATEGORY, SEQUENCE, SET, TEXT
from losskit.diagnostics import WARNING
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.noise import ignore_index, label_smoothing
from losskit.schema.reduced import ReducedLossConfig

DEFAULT_ALPHA = 0.25


@dataclass
class FocalLossConfig(ReducedLossConfig):
    alpha: Any = schema_utils.FloatOrClassWeights(
        default=DEFAULT_ALPHA,
        max=1,
        description="A number is the weight of the positive class, and `1 - alpha` that of the negative one, where "
        "labels are yes or no. Where one class is right out of several, a list or mapping weighs each "
        "of them, and a number has no effect unless `activation` is `sigmoid`. `null` weighs nothing; the default, the"
        " paper's, plays positives down, for focusing favours them already.",
        examples=[0.75, [0.2, 0.3, 0.5]],
    )
    gamma: float = schema_utils.NonNegativeFloat(
        default=2.0,
        max=100,
        description="How strongly easy examples are played down; 0 is plain cross-entropy.",
        examples=[1.5],
    )
    ignore_index: int | None = ignore_index()
    label_smoothing: float = label_smoothing("all classes, which are yes and no for such labels")
    activation: str = schema_utils.StringOptions(
        options=["auto", "sigmoid", "softmax"],
        default="auto",
        description="Whether each logit is a yes-or-no question (`sigmoid`) or one class is right (`softmax`). "
        "`auto` follows the feature type; for images, it takes sigmoid for masks shaped like the "
        "logits, softmax for class ids.",
    )
    average_classes: bool = schema_utils.Boolean(
        default=False,
        description="Whether the loss of an item is divided by the number of classes, as MONAI and kornia do, where "
        "one class is right out of several.",
    )
    normalize_by: str = schema_utils.StringOptions(
        options=["items", "positives"],
        default="items",
        description="What the mean divides by: all items, or only the positive ones, as in the paper on detection.",
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        has_ids = feature.type in (CATEGORY, SEQUENCE, TEXT)
        is_softmax = self.activation == "softmax" or (self.activation == "auto" and has_ids)
        if is_softmax and isinstance(self.alpha, (int, float)) and self.alpha != DEFAULT_ALPHA:
            message = "is a number and has no effect here, for there is no positive class"
            yield Problem("alpha", message, "LK303", WARNING, help="give a list with one weight per class, or null")
        if self.activation == "softmax" and feature.type in (BINARY, SET):
            yield Problem("activation", f"is `softmax`, but the labels of a {feature.type} feature are yes or no")
        per_class = isinstance(self.alpha, (list, Mapping))
        if per_class and feature.type == BINARY:
            message = "has a number per class, but a binary feature has a single logit"
            yield Problem("alpha", message, help="give the weight of the positive class, or null")
        if self.average_classes and (self.activation == "sigmoid" or feature.type in (BINARY, SET)):
            yield Problem("average_classes", "has no effect on yes-or-no labels, which the mean is over anyway")
        numbers = self.alpha.values() if isinstance(self.alpha, Mapping) else self.alpha
        is_sigmoid = self.activation == "sigmoid" or feature.type == SET
        if per_class and is_sigmoid and max(numbers) > 1:
            yield Problem("alpha", "has values above 1, but `1 - alpha` weighs the labels that are absent", "LK203")
        if self.normalize_by == "positives" and has_ids:
            yield Problem("normalize_by", f"is `positives`, but the class ids of a {feature.type} feature have none")
