"""Losses between predicted and true regions of an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.noise import ignore_index
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class DiceLossConfig(ReducedLossConfig):
    smooth: float = schema_utils.NonNegativeFloat(
        default=1.0,
        description="Added to numerator and denominator: keeps empty regions defined and softens the loss for small "
        "ones.",
        examples=[0.5],
    )
    smooth_denominator: float | None = schema_utils.NonNegativeFloat(
        default=None,
        allow_none=True,
        description="What is added to the denominator, where that is a larger number than `smooth`.",
        examples=[2.0],
    )
    average: str = schema_utils.StringOptions(
        options=["sample_class", "class", "micro", "batch"],
        default="sample_class",
        description="What one overlap is taken over: a class in a sample (`sample_class`, as in Ludwig and MONAI), "
        "a class in the whole batch (`class`, as in segmentation-models-pytorch), all classes of a "
        "sample (`micro`, as in kornia) or everything (`batch`, as in Keras).",
    )
    classes: Any = schema_utils.OptionsOrIntegers(
        options=["all", "present"],
        default="all",
        description="Which classes count: all, those that the targets contain (`present`), or a list of class ids.",
        examples=[[0, 2]],
    )
    include_background: bool = schema_utils.Boolean(default=True, description="Whether class 0 counts.")
    squared: bool = schema_utils.Boolean(
        default=False, description="Whether the denominator adds up squares, as in the paper on V-Net."
    )
    log: bool = schema_utils.Boolean(
        default=False, description="Whether the loss is the negative logarithm of the overlap, in place of 1 minus it."
    )
    class_weights: Any = schema_utils.ClassWeights(
        description="How much each class counts: a list in the order of the class ids, or a mapping from class "
        "name. The mean divides by the weights."
    )
    ignore_index: int | None = ignore_index()
    activation: str = schema_utils.StringOptions(
        options=["auto", "softmax", "sigmoid", "none"],
        default="auto",
        description="How logits become probabilities: `softmax` for class ids, `sigmoid` for masks shaped like the "
        "logits, `none` where they are probabilities already. `auto` looks at the shapes.",
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        if self.smooth_denominator is not None and self.smooth_denominator < self.smooth:
            message = "is below `smooth`: the overlap of small regions would pass 1"
            yield Problem("smooth_denominator", message, "LK207")
        merged = self.average in ("micro", "batch")
        if merged and self.class_weights is not None:
            yield Problem(
                "class_weights", f"has no effect where `average` is `{self.average}`: classes are taken together"
            )
        ids = self.classes if isinstance(self.classes, list) else []
        too_large = next((i for i in ids if feature.num_classes is not None and i >= feature.num_classes), None)
        if too_large is not None:
            message = f"has the class id {too_large}, but the feature has {feature.num_classes} classes"
            yield Problem("classes", message, "LK206")
        if 0 in ids and not self.include_background:
            yield Problem("include_background", "is false, but `classes` has class 0", "LK207")
        if merged and self.classes == "present":
            yield Problem("classes", f"has no effect where `average` is `{self.average}`: classes are taken together")
