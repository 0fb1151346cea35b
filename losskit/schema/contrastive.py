"""Losses that compare each sample with all others of the batch."""

from __future__ import annotations

from collections.abc import Iterator

from losskit.diagnostics import WARNING
from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.reduced import GatheringLossConfig

DEFAULT_TEMPERATURE = 0.07


@dataclass
class NtXentLossConfig(GatheringLossConfig):
    temperature: float = schema_utils.PositiveFloat(
        default=DEFAULT_TEMPERATURE,
        description="What cosines are divided by: the smaller, the more the most similar samples count.",
        examples=[0.5],
    )
    pairing: str = schema_utils.StringOptions(
        options=["consecutive", "halves", "labels"],
        default="consecutive",
        description="Which samples belong together: rows 2i and 2i + 1 (`consecutive`, as in Ludwig), rows i and "
        "i + batch / 2 (`halves`, two batches of views one after the other), or all with the same target (`labels`).",
    )


@dataclass
class ContrastiveLossConfig(GatheringLossConfig):
    temperature: float = schema_utils.PositiveFloat(
        default=DEFAULT_TEMPERATURE,
        description="What dot products are divided by: the smaller, the more the most similar samples count. A "
        "`temperature` among the predictions, which the model may learn, takes its place.",
        examples=[0.5],
    )
    normalize: bool = schema_utils.Boolean(
        default=False,
        description="Whether embeddings are brought to length 1, so that dot products become cosines; false where "
        "the model does that itself, as MMF expects.",
    )
    symmetric: bool = schema_utils.Boolean(
        default=True,
        description="Whether each second embedding looks for its first one too, as in CLIP, in place of each first for "
        "its second alone, as in InfoNCE.",
    )

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        if "temperature" in self.inputs and self.temperature != DEFAULT_TEMPERATURE:
            yield Problem("temperature", "has no effect beside the `temperature` in `inputs`", "LK303", WARNING)


@dataclass
class InBatchHingeLossConfig(GatheringLossConfig):
    margin: float = schema_utils.NonNegativeFloat(
        default=0.0,
        description="By how much a pair must be more similar than its parts are to others before it costs nothing.",
        examples=[0.2],
    )
    hard: bool = schema_utils.Boolean(
        default=False, description="Whether the most similar of the others counts alone, in place of all of them."
    )
    reduction: str = schema_utils.StringOptions(
        options=["mean", "sum"],
        default="sum",
        description="Whether the costs of all pairs are added up, as in MMF, or divided by the number of rows of the "
        "first embedding; a sum grows with the square of the batch.",
    )
