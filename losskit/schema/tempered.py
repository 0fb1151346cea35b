"""Losses with a tempered logarithm and exponential."""

from __future__ import annotations

from collections.abc import Iterator

from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.noise import ignore_index, ignore_index_problems, label_smoothing
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class TemperedSoftmaxCrossEntropyLossConfig(ReducedLossConfig):
    t1: float = schema_utils.FloatRange(
        default=0.8,
        min=0,
        max=1,
        description="The temperature of the logarithm: below 1 the loss is bounded, so that a wrong label cannot "
        "pull without limit; 1 is the logarithm.",
        examples=[0.5],
    )
    t2: float = schema_utils.PositiveFloat(
        default=1.4,
        max=10,
        description="The temperature of the softmax: above 1 its tails are heavy, so that wrong labels near the "
        "boundary pull less; 1 is the softmax; below 1 probabilities can be 0.",
        examples=[2.0],
    )
    label_smoothing: float = label_smoothing("the other classes")
    num_iters: int = schema_utils.PositiveInteger(
        default=5,
        max=1000,
        description="How many Newton steps find the normalisation of the softmax; 5 are exact unless single logits"
        " stand thousands above all others.",
        examples=[1],
    )
    ignore_index: int | None = ignore_index()

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from ignore_index_problems(self.ignore_index, feature)
        if self.t1 == 1 and self.t2 < 1:
            message = "is 1 while `t2` is below 1: a label of probability 0 would have an infinite loss"
            yield Problem("t1", message, help="lower `t1`, or raise `t2` to 1 or more")
