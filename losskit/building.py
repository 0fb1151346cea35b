"""Turns configs into modules: one loss, or the weighted sum of all losses of a config file."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from losskit.config import Document
from losskit.registry import LossEntry, registry
from losskit.schema.base import BaseLossConfig, FeatureContext, LossesConfig
from losskit.schema.schedules import schedule_of
from losskit.validation import Validation, load, plain

if TYPE_CHECKING:
    from torch import nn

    from losskit.modules.balancing import LossBalancing
    from losskit.modules.lookup import Term
    from losskit.modules.multi_task import MultiTaskLoss
    from losskit.schema.balancing import BaseBalancingConfig


def create_loss(
    loss: str | Mapping[str, Any] | BaseLossConfig | None = None, *, feature_type: str | None = None, **settings: Any
) -> nn.Module:
    """Builds one loss from its name and settings; those that are not given have their defaults.

    `type`, `weight`, `name` and `inputs` belong to the sum of losses: they are checked but never reach the loss.

    Args:
        loss: the name of a loss, or a mapping with `type` and settings, or a config object. Without it, `type` among
            the settings is the name, as where a framework passes on what a config file says.
        feature_type: what the loss is for. It must support that, and a sequence's class axis is then the last one.
        **settings: the settings; where `loss` has them too, these count.

    Raises:
        ConfigError: the loss, the feature type or the settings are wrong; all problems at once.
        ImportError: torch is not installed.

    >>> import torch
    >>> create_loss("huber", delta=0.5)(torch.tensor([2.0]), torch.tensor([0.0]))
    tensor(0.8750)
    """
    config = config_of_loss(loss, feature_type, settings)
    require_torch("create_loss")
    return module_of(config, FeatureContext(feature_type))


def config_of_loss(loss: Any, feature_type: str | None, settings: dict[str, Any]) -> BaseLossConfig:
    """What `create_loss` is given, checked and with its defaults."""
    if loss is None and "type" in settings:
        loss = {"type": settings.pop("type")}
    if isinstance(loss, BaseLossConfig):
        loss = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    elif isinstance(loss, str):
        loss = {"type": loss}
    elif not isinstance(loss, Mapping):
        raise TypeError(f"a loss is a name, a mapping with `type` or a config, got {type(loss).__name__}")
    if "type" in settings:
        raise TypeError("the loss is named by the first argument, and again by type=")
    source = plain({**loss, **settings})
    (config,) = Validation(Document(source), loss_of=FeatureContext(feature_type)).config().features[0].losses
    return config


def build(
    source: str | os.PathLike[str] | Mapping[str, Any] | LossesConfig | None = None,
    *,
    text: str | bytes | None = None,
    name: str | None = None,
    at: str | None = None,
) -> MultiTaskLoss:
    """Builds the losses of a config: a module that takes predictions and targets by feature.

    The arguments are those of `losskit.validate`; a config that `losskit.load` returned will do too.

    Raises:
        ConfigError: the config is wrong; it holds all diagnostics.
        ImportError: torch is not installed.
        OSError: the file cannot be read.
    """
    config = source if isinstance(source, LossesConfig) else load(source, text=text, name=name, at=at)
    require_torch("build")
    from losskit.modules.multi_task import MultiTaskLoss

    terms = []
    for feature in config.features:
        for loss in feature.losses:
            entry = registry.get(loss.type, feature.type)
            module = module_of(loss, feature.context, entry)
            term = term_of(entry, loss, feature.name, module)
            terms.append(term._replace(missing=feature.missing == "mask", feature_type=feature.type))
    return MultiTaskLoss(terms, balancing=balancing_of(config.loss_balancing, len(terms)))


def balancing_of(config: BaseBalancingConfig | None, num_tasks: int) -> LossBalancing | None:
    """The module that balances so many losses; None where their weighted sum is all that is asked for."""
    if config is None or config.type == "none":
        return None
    from losskit.strategies import strategies

    settings = {field.name: getattr(config, field.name) for field in config.setting_fields()}
    balancing: LossBalancing = strategies.get(config.type).module.load()(num_tasks, **settings)
    balancing.name = config.type
    return balancing


def module_of(config: BaseLossConfig, feature: FeatureContext, entry: LossEntry | None = None) -> nn.Module:
    """The module of one loss with the settings of its config; `entry` is the loss, where it is known already."""
    from losskit.modules.base import for_feature

    entry = entry or registry.get(config.type, feature.type)
    return for_feature(entry.module.load()(**config.settings(feature)), feature.type)


def term_of(entry: LossEntry, config: BaseLossConfig, feature: str | None, module: nn.Module) -> Term:
    """The part that one loss is of the sum of all losses."""
    from losskit.modules.lookup import Term

    return Term(
        feature,
        config.name or entry.name,
        module,
        entry.inputs,
        entry.targets,
        entry.optional_inputs,
        entry.optional_targets,
        schedule_of(config.weight) if isinstance(config.weight, dict) else config.weight,
        config.inputs,
    )


def require_torch(what: str) -> None:
    """Says how to install torch where it is missing.

    Raises:
        ImportError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        message = f'{what} needs torch, which is not installed: pip install "losskit[torch]"'
        raise ImportError(message, name="torch")
