"""Losses for PyTorch models that are trained from config files.

losskit.validate("train.yaml")            # what is wrong, and where; imports no torch
criterion = losskit.build("train.yaml")   # a module: criterion(predictions, targets).total.backward()
losskit.create_loss("huber", delta=0.5)   # a single loss
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import Any

    from losskit import distributed as distributed
    from losskit import testing as testing
    from losskit.building import build as build
    from losskit.building import create_loss as create_loss
    from losskit.diagnostics import ConfigError as ConfigError
    from losskit.diagnostics import Diagnostic as Diagnostic
    from losskit.modules.checking import debug as debug
    from losskit.modules.multi_task import LossOutput as LossOutput
    from losskit.modules.multi_task import MultiTaskLoss as MultiTaskLoss
    from losskit.registry import get_loss_classes as get_loss_classes
    from losskit.registry import get_loss_cls as get_loss_cls
    from losskit.registry import losses as losses
    from losskit.registry import register_loss as register_loss
    from losskit.schema.base import LossesConfig as LossesConfig
    from losskit.strategies import register_loss_balancing as register_loss_balancing
    from losskit.validation import load as load
    from losskit.validation import validate as validate

__version__ = "0.1.0"

# Where each public name stands. They are imported when first asked for, so that `import losskit` costs next to nothing
# and validating never imports torch.
_PLACES = {
    "ConfigError": "losskit.diagnostics",
    "Diagnostic": "losskit.diagnostics",
    "LossOutput": "losskit.modules.multi_task",
    "LossesConfig": "losskit.schema.base",
    "MultiTaskLoss": "losskit.modules.multi_task",
    "build": "losskit.building",
    "create_loss": "losskit.building",
    "debug": "losskit.modules.checking",
    "distributed": "",
    "get_loss_classes": "losskit.registry",
    "get_loss_cls": "losskit.registry",
    "load": "losskit.validation",
    "losses": "losskit.registry",
    "register_loss": "losskit.registry",
    "register_loss_balancing": "losskit.strategies",
    "testing": "",
    "validate": "losskit.validation",
}

__all__ = [*sorted(_PLACES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if not _PLACES[name]:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
