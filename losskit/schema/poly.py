"""Cross-entropy with a polynomial of the probability that misses the label."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import dataclass
from losskit.schema.noise import ignore_index, label_smoothing
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class PolyLossConfig(ReducedLossConfig):
    epsilon: float = schema_utils.FloatRange(
        default=1.0,
        min=-1,
        description="How much the probability that misses the label costs beside the cross-entropy: above 0, examples "
        "that are nearly right pull harder, below 0 less hard; 0 is cross-entropy. Some libraries default to 2.",
        examples=[2.0, -1.0],
    )
    label_smoothing: float = label_smoothing("all classes")
    ignore_index: int | None = ignore_index()
