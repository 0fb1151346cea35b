"""Losses that pick, out of all pairs of a batch, those that are hard."""

from __future__ import annotations

from typing import Any

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.reduced import GatheringLossConfig


def _scale(default: float, kind: str) -> Any:
    return schema_utils.PositiveFloat(
        default=default,
        description=f"How sharply {kind} are weighed by their similarity: the larger, the more the hardest counts.",
        examples=[5.0],
    )


def _base(of: str = "") -> Any:
    return schema_utils.Float(
        default=0.5,
        description=f"The similarity{of} above which positives, and below which negatives, cost little.",
        examples=[0.2],
    )


def _epsilon() -> Any:
    return schema_utils.NonNegativeFloat(
        default=1e-16,
        description="Targets whose similarity is this close to that of the sample's own target, such as equal targets, "
        "are no negatives.",
        examples=[0.5],
    )


@dataclass
class MultiSimilarityLossConfig(GatheringLossConfig):
    alpha: float = _scale(2.0, "positives")
    beta: float = _scale(50.0, "negatives")
    base: float = _base()
    miner_epsilon: float | None = schema_utils.NonNegativeFloat(
        default=0.1,
        allow_none=True,
        description="How near a negative must come to the least similar positive, and a positive to the most similar "
        "negative, to count; without a value, all pairs count.",
        examples=[0.5, None],
    )


@dataclass
class MsLossConfig(GatheringLossConfig):
    alpha: float = _scale(50.0, "negatives")
    beta: float = _scale(2.0, "positives")
    margin: float = _base()
    hard_mining: bool = schema_utils.Boolean(
        default=True,
        description="Whether only negatives that come within 0.1 of the least similar positive count, and positives "
        "within 0.1 of the most similar negative.",
    )
    is_multilabel: bool = schema_utils.Boolean(
        default=False,
        description="Whether samples belong together that share a label, in place of those whose labels are the same.",
    )


@dataclass
class RefinerMsLossConfig(GatheringLossConfig):
    alpha: float = _scale(50.0, "negatives")
    beta: float = _scale(2.0, "positives")
    base: float = _base(", a dot product,")
    margin: float = schema_utils.NonNegativeFloat(
        default=0.1,
        description="How near the similarity to another target must come to that of the own target to count.",
        examples=[0.5],
    )
    epsilon: float = _epsilon()


@dataclass
class RefinerContrastiveLossConfig(GatheringLossConfig):
    sim_thresh: float = schema_utils.NonNegativeFloat(
        default=0.1,
        description="By how much the own target must be more similar than any other before a sample costs nothing.",
        examples=[0.5],
    )
    epsilon: float = _epsilon()
