"""Losses between distributions over classes."""

from __future__ import annotations

from losskit.schema import fields as schema_utils
from losskit.schema.base import BaseLossConfig, dataclass
from losskit.schema.reduced import ReducedLossConfig, reduction_with_batchmean


@dataclass
class KlDivLossConfig(ReducedLossConfig):
    log_target: bool = schema_utils.Boolean(
        default=False, description="Whether the targets are logarithms of probabilities, which holds small ones better."
    )
    from_logits: bool = schema_utils.Boolean(
        default=False,
        description="Whether the loss gets logits and takes their log-softmax itself; where the predictions are a "
        "mapping, say so with `inputs: {log_probabilities: logits}`.",
    )
    reduction: str = reduction_with_batchmean("batchmean")


@dataclass
class SoftmaxKldivLossConfig(ReducedLossConfig):
    pass


@dataclass
class WeightedSoftmaxLossConfig(ReducedLossConfig):
    pass


@dataclass
class BceKlCombinedLossConfig(ReducedLossConfig):
    weight_softmax: float = schema_utils.NonNegativeFloat(
        default=1.0,
        description="How much the divergence of the softmax counts beside the yes-or-no questions.",
        examples=[0.5],
    )


@dataclass
class BceKlLossConfig(BaseLossConfig):
    weight_softmax: float = schema_utils.NonNegativeFloat(
        default=1.0,
        description="By what the divergence of the softmax is multiplied; the yes-or-no questions are left as they "
        "are.",
        examples=[0.5],
    )
