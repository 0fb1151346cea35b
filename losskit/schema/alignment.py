"""Losses between a sequence of predictions and a shorter one of labels, of which nobody says where they lie."""

from __future__ import annotations

from collections.abc import Iterator

from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class CtcLossConfig(ReducedLossConfig):
    blank: int = schema_utils.NonNegativeInteger(
        default=0, description="The class id that stands for no label; targets never hold it."
    )
    zero_infinity: bool = schema_utils.Boolean(
        default=True,
        description="Whether a sample whose labels do not fit into its steps costs nothing, in place of infinity and a "
        "gradient that is no number.",
    )
    from_logits: bool = schema_utils.Boolean(
        default=True,
        description="Whether a log-softmax is applied first, which leaves log-probabilities as they are; `false` saves "
        "it where the model has applied it.",
    )
    layout: str = schema_utils.StringOptions(
        options=["batch_first", "time_first"],
        default="batch_first",
        description="Which axis of the logits comes first: that of the samples, or that of the steps as in torch.",
    )
    padding_index: int | None = schema_utils.IntegerRange(
        default=-100,
        min=-(2**31),
        max=2**31 - 1,
        allow_none=True,
        description="The id in the targets that is no label, wherever it stands, so that rows of different length fit "
        "into one tensor. It has no effect where target lengths are given.",
        examples=[1],
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        if feature.num_classes is not None and self.blank > feature.num_classes:
            message = f"is {self.blank}, but the feature has {feature.num_classes} classes"
            yield Problem("blank", message, "LK206")
