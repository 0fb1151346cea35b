"""Losses whose value is the overlap of regions itself, made convex."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.noise import ignore_index
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class LovaszSoftmaxLossConfig(ReducedLossConfig):
    classes: str = schema_utils.StringOptions(
        options=["present", "all"],
        default="present",
        description="Which classes count: those that the targets contain, or all; an absent class then costs the "
        "largest probability that any pixel gives it.",
    )
    per_image: bool = schema_utils.Boolean(
        default=False,
        description="Whether each image has an overlap of its own, in place of one over the whole batch; small images "
        "and rare classes then count more.",
    )
    ignore_index: int | None = ignore_index()


@dataclass
class LovaszHingeLossConfig(ReducedLossConfig):
    per_image: bool = schema_utils.Boolean(
        default=True, description="Whether each image has an overlap of its own, in place of one over the whole batch."
    )
    ignore_index: int | None = ignore_index()
