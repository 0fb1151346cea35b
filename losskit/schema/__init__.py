"""What users may write about a loss. Nothing in here imports torch."""

from __future__ import annotations

from typing import Any

from losskit.schema import fields
from losskit.schema.base import (
    BaseLossConfig,
    FeatureConfig,
    FeatureContext,
    LossesConfig,
    Problem,
    dataclass,
)
from losskit.schema.catalogue import public_name

__all__ = [
    "BaseLossConfig",
    "FeatureConfig",
    "FeatureContext",
    "LossesConfig",
    "Problem",
    "dataclass",
    "fields",
]


def __getattr__(name: str) -> Any:
    """The config class of a built-in loss, such as `HuberLossConfig`."""
    return public_name(__name__, name)
