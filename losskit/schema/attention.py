"""Losses on where a model looks."""

from __future__ import annotations

from losskit.schema.base import dataclass
from losskit.schema.reduced import ReducedLossConfig, reduction_with_batchmean


@dataclass
class AttentionSupervisionLossConfig(ReducedLossConfig):
    reduction: str = reduction_with_batchmean("batchmean")
