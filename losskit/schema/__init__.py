"""What users may write about a loss. Nothing in here imports torch."""

from __future__ import annotations

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "BaseBalancingConfig",
    "BaseLossConfig",
    "FeatureConfig",
    "FeatureContext",
    "LossesConfig",
    "Problem",
    "dataclass",
    "fields",
]


def __getattr__(name: str) -> Any:
    """A name from `base`, or the config class of a built-in loss, such as `HuberLossConfig`.

    They are imported when they are asked for: a right config without rules is checked without any of them.
    """
    if name == "fields":
        import losskit.schema.fields as fields  # noqa: PLR0402 - `from losskit.schema` would ask this function again

        return fields
    if name == "BaseBalancingConfig":
        from losskit.schema.balancing import BaseBalancingConfig

        return BaseBalancingConfig
    if name in __all__:
        from losskit.schema import base

        return getattr(base, name)
    from losskit.schema.catalogue import public_name

    return public_name(__name__, name)
