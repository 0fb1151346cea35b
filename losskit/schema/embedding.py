"""Losses between embeddings: what belongs together is drawn together."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class TripletMarginLossConfig(ReducedLossConfig):
    margin: float = schema_utils.PositiveFloat(
        default=1.0,
        description="By how much the negative must be further away than the positive before a triplet costs nothing.",
        examples=[2.0],
    )
    p: float = schema_utils.FloatRange(
        default=2.0,
        min=0.1,
        max=50,
        description="The norm of the distance: 2 is Euclidean, 1 adds up the differences.",
        examples=[1.0],
    )
    eps: float = schema_utils.NonNegativeFloat(
        default=1e-6,
        description="Added to the differences, so that the gradient is defined for equal embeddings.",
        examples=[0.1],
    )
    swap: bool = schema_utils.Boolean(
        default=False,
        description="Whether the positive takes the anchor's place where it is nearer to the negative.",
    )


@dataclass
class TripletMarginWithDistanceLossConfig(ReducedLossConfig):
    distance: str = schema_utils.StringOptions(
        options=["l2", "squared_l2", "l1", "cosine"],
        default="l2",
        description="How far apart two embeddings are: the Euclidean distance, its square, the sum of absolute "
        "differences, or 1 minus the cosine, for which their lengths do not matter.",
    )
    margin: float = schema_utils.PositiveFloat(
        default=1.0,
        description="By how much the negative must be further away than the positive before a triplet costs nothing.",
        examples=[2.0],
    )
    swap: bool = schema_utils.Boolean(
        default=False,
        description="Whether the positive takes the anchor's place where it is nearer to the negative.",
    )


@dataclass
class CosineEmbeddingLossConfig(ReducedLossConfig):
    margin: float = schema_utils.FloatRange(
        default=0.0,
        min=-1,
        max=1,
        description="The cosine up to which a pair that does not belong together costs nothing.",
        examples=[-0.5],
    )


@dataclass
class CosEmbLossConfig(ReducedLossConfig):
    pass
