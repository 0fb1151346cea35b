"""Negative log likelihoods of distributions over numbers."""

from __future__ import annotations

from collections.abc import Iterator

from losskit.diagnostics import WARNING
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.reduced import ReducedLossConfig

_POISSON_EPS = 1e-8


@dataclass
class PoissonNllLossConfig(ReducedLossConfig):
    log_input: bool = schema_utils.Boolean(
        default=True,
        description="Whether predictions are logarithms of rates, so that any number is one; otherwise they are rates, "
        "0 or more.",
    )
    full: bool = schema_utils.Boolean(
        default=False,
        description="Whether the term of the counts alone is added, by Stirling's formula: the value comes near the "
        "true likelihood, the gradient stays as it is.",
    )
    eps: float = schema_utils.PositiveFloat(
        default=_POISSON_EPS,
        description="Added to rates before the logarithm, so that a rate of 0 is not infinitely wrong; has no effect "
        "with `log_input`.",
        examples=[0.1],
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        if self.log_input and self.eps != _POISSON_EPS:
            cure = "set `log_input: false` if the predictions are rates"
            yield Problem("eps", "has no effect while `log_input` is true", "LK303", WARNING, help=cure)


@dataclass
class GaussianNllLossConfig(ReducedLossConfig):
    full: bool = schema_utils.Boolean(
        default=False,
        description="Whether the constant, half the logarithm of 2 pi, is added; the gradient stays as it is.",
    )
    eps: float = schema_utils.PositiveFloat(
        default=1e-6,
        description="The smallest variance: smaller ones count as this, so that certainty is never rewarded without "
        "end.",
        examples=[0.5],
    )
    var_form: str = schema_utils.StringOptions(
        options=["variance", "log_variance", "std"],
        default="variance",
        description="What the model predicts beside the mean: the variance, its logarithm, which may be any number, or "
        "the standard deviation.",
    )
