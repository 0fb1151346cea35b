"""What computes: the losses, by family, their sum, and what balances them. The only package that imports torch."""

from __future__ import annotations

from typing import Any

from losskit.modules.balancing import LossBalancing
from losskit.modules.base import AdditiveLoss, LogitsInputsMixin
from losskit.modules.mmf import from_mmf
from losskit.modules.multi_task import LossOutput, MultiTaskLoss
from losskit.schema.catalogue import public_name

__all__ = ["AdditiveLoss", "LogitsInputsMixin", "LossBalancing", "LossOutput", "MultiTaskLoss", "from_mmf"]


def __getattr__(name: str) -> Any:
    """A built-in loss as a class or as a function, such as `FocalLoss` and `focal_loss`."""
    return public_name(__name__, name)
