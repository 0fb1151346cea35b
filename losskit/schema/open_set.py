"""Classification that also learns from samples of no class, so that it is unsure of what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from losskit.constants import BINARY
from losskit.diagnostics import WARNING
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.reduced import ReducedLossConfig

DEFAULT_ZETA = 0.1


def _background_class() -> Any:
    return schema_utils.IntegerRange(
        default=None,
        min=-(2**31),
        max=2**31 - 1,
        allow_none=True,
        description="The class id of samples that belong to none of the known classes; it need not have a logit. "
        "Without it, all samples are known.",
        examples=[2, -1],
    )


def _background_problems(value: int | None, feature: FeatureContext) -> Iterator[Problem]:
    if feature.type == BINARY and value in (0, 1):
        message = f"is {value}, one of the two labels of a binary feature"
        yield Problem("background_class", message, help="give unknown samples a label of their own, such as -1")


@dataclass
class EntropicOpenSetLossConfig(ReducedLossConfig):
    background_class: int | None = _background_class()

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from _background_problems(self.background_class, feature)


@dataclass
class ObjectosphereLossConfig(ReducedLossConfig):
    background_class: int | None = _background_class()
    xi: float = schema_utils.NonNegativeFloat(
        default=10.0, description="The length that the features of known samples should have at least."
    )
    zeta: float = schema_utils.NonNegativeFloat(
        default=DEFAULT_ZETA, description="How strongly the features of unknown samples are drawn to 0.", examples=[1.0]
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from _background_problems(self.background_class, feature)
        if self.background_class is None and self.zeta != DEFAULT_ZETA:
            yield Problem("zeta", "has no effect without a `background_class`", "LK303", WARNING)
