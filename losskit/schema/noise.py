"""Settings against noisy labels, which several classification losses share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from losskit.constants import CATEGORY_DISTRIBUTION
from losskit.diagnostics import WARNING
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem

DEFAULT_IGNORE_INDEX = -100


def robust_lambda() -> Any:
    """Ludwig's setting; a fraction."""
    return schema_utils.FloatRange(
        default=0.0,
        min=0,
        max=1,
        max_inclusive=False,
        description="Share of the labels taken to be random: mixes the loss with a constant, "
        "`(1 - robust_lambda) * loss + robust_lambda / classes`.",
        examples=[0.1],
    )


def confidence_penalty() -> Any:
    """Ludwig's setting."""
    return schema_utils.NonNegativeFloat(
        default=0.0,
        description="How much certainty costs: adds this times `1 - entropy / highest entropy` of each prediction.",
        examples=[0.1],
    )


def label_smoothing(spread: str, default: float = 0.0) -> Any:
    """A share of the label that goes to other classes; `spread` says to which."""
    return schema_utils.FloatRange(
        default=default,
        min=0,
        max=1,
        max_inclusive=False,
        description=f"Share of each label that is spread evenly over {spread}, so that certainty stops paying off.",
        examples=[0.1],
    )


def ignore_index(default: int | None = DEFAULT_IGNORE_INDEX) -> Any:
    """The class id of items that do not count."""
    return schema_utils.IntegerRange(
        default=default,
        min=-(2**31),
        max=2**31 - 1,
        allow_none=True,
        description="The class id of items, such as padding or unlabelled pixels, that count neither in the sum nor in "
        "the mean.",
        examples=[0],
    )


def ignore_index_problems(value: int | None, feature: FeatureContext) -> Iterator[Problem]:
    """A warning where there are no class ids that could be ignored."""
    if feature.type == CATEGORY_DISTRIBUTION and value not in (None, DEFAULT_IGNORE_INDEX):
        yield Problem("ignore_index", "has no effect on distributions, which have no class ids", "LK303", WARNING)
