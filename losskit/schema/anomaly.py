"""Losses that draw what is normal together and leave the rest outside."""

from __future__ import annotations

from collections.abc import Iterator

from losskit.diagnostics import WARNING
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.reduced import ReducedLossConfig

DEFAULT_STEPS = 5


@dataclass
class DeepSvddLossConfig(ReducedLossConfig):
    nu: float = schema_utils.FloatRange(
        default=0.1,
        min=0,
        max=1,
        description="Share of the samples that may lie outside the sphere around the centre; only these are drawn in. "
        "0 draws in all of them.",
        examples=[0.0, 0.5],
    )


@dataclass
class DeepSadLossConfig(ReducedLossConfig):
    eta: float = schema_utils.NonNegativeFloat(
        default=1.0,
        description="How strongly labelled anomalies are pushed away from the centre; 0 leaves them where they are.",
        examples=[2.0],
    )
    eps: float = schema_utils.PositiveFloat(
        default=1e-6,
        description="Added to the distance of anomalies before it divides; it bounds the loss of one in the centre.",
        examples=[0.1],
    )


@dataclass
class DroccLossConfig(ReducedLossConfig):
    perturbation_strength: float = schema_utils.NonNegativeFloat(
        default=0.1,
        description="The length of each of the adversary's steps away from a sample, and how much the points that it "
        "finds count; 0 switches the adversary off.",
        examples=[0.3],
    )
    num_perturbation_steps: int = schema_utils.PositiveInteger(
        default=DEFAULT_STEPS, description="How many steps the adversary takes.", examples=[2]
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        if self.perturbation_strength == 0 and self.num_perturbation_steps != DEFAULT_STEPS:
            message = "has no effect while `perturbation_strength` is 0"
            yield Problem("num_perturbation_steps", message, "LK303", WARNING)
