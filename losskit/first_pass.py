"""A first look at a config: most are right, and this says so in less time than the full check takes to import.

It knows the built-in losses from a generated table, with the limits of their settings and what their rules look at.
What it is not sure of, it leaves to `Validation`, whose word counts: a property test holds that where this one finds a
config right, the other finds nothing to say about it.
"""

from __future__ import annotations

import functools

from losskit.constants import (
    BALANCING_KEY,
    DEFAULT_LOSSES,
    FEATURE_KEYS,
    FEATURE_TYPES,
    FEATURES_KEY,
    LOSSES_KEY,
    MISSING,
    RESERVED,
    SCHEDULE_DEFAULTS,
)
from losskit.schema.compiled import CHECKS, LOSSES, NAMES, STRATEGIES
from losskit.schema.quick import compiled
from losskit.spelling import is_near_miss

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import Any

    from losskit.config import Document
    from losskit.schema.quick import Check

_TYPES = frozenset(FEATURE_TYPES)
# Keys of a feature that may be settings in the wrong place.
_BESIDE = {"params", BALANCING_KEY}.union(*(settings for _, settings, *_ in LOSSES.values())).difference(FEATURE_KEYS)


def is_right(document: Document) -> bool:
    """Whether there is surely nothing to say about a config, not even a warning."""
    data = document.data
    if document.diagnostics or not isinstance(data, dict):
        return False
    # A mapping of settings is left to the full check.
    balancing = data.get(BALANCING_KEY, STRATEGIES[0])
    if not isinstance(balancing, str) or balancing not in STRATEGIES:
        return False
    look = _Look(document.odd)
    if FEATURES_KEY in data:
        features = data[FEATURES_KEY]
        if LOSSES_KEY in data or not isinstance(features, list) or not features:
            return False
        if any(is_near_miss(key, (FEATURES_KEY, BALANCING_KEY)) for key in data):
            return False
        names = {feature["name"] for feature in features if look.at_feature(feature)}
        return len(names) == len(features)
    losses = data.get(LOSSES_KEY)
    if not isinstance(losses, list) or any(is_near_miss(key, (LOSSES_KEY, BALANCING_KEY)) for key in data):
        return False
    return look.at_losses(losses)


def has_no_losses(document: Document) -> bool:
    """Whether a file is surely another's: a mapping without anything that looks like losses."""
    data = document.data
    return (
        isinstance(data, dict)
        and not document.diagnostics
        and FEATURES_KEY not in document.text
        and not any(key == LOSSES_KEY or is_near_miss(key, (FEATURES_KEY, LOSSES_KEY)) for key in data)
    )


class _Look:
    """Looks at one feature after the other, and at its losses; each method says whether all is surely right."""

    def __init__(self, odd: set[int]) -> None:
        self.odd = odd
        self.kind: str | None = None
        self.count: int | None = None
        self.classes: list[str] | None = None

    def at_feature(self, feature: Any) -> bool:
        if not isinstance(feature, dict):
            return False
        name, self.kind = feature.get("name"), feature.get("type")
        if not isinstance(name, str) or not name or not isinstance(self.kind, str) or self.kind not in _TYPES:
            return False
        if any(key in _BESIDE or is_near_miss(key, FEATURE_KEYS) for key in feature) or not self.at_classes(feature):
            return False
        if "missing" in feature and feature["missing"] not in MISSING:
            return False
        loss = feature.get("loss") if "loss" in feature else DEFAULT_LOSSES.get(self.kind)
        return self.at_losses(loss) if isinstance(loss, list) else self.at_loss(loss)

    def at_classes(self, feature: dict[str, Any]) -> bool:
        self.count, self.classes = feature.get("num_classes"), None
        if "num_classes" in feature and (type(self.count) is not int or self.count < 1):
            return False
        if "classes" in feature:
            self.classes = classes = feature["classes"]
            if not isinstance(classes, list) or not classes or not all(isinstance(label, str) for label in classes):
                return False
            if len(set(classes)) != len(classes) or self.count not in (None, len(classes)):
                return False
            self.count = len(classes)
        # Of a single class there may be nothing to learn.
        return self.count != 1

    def at_losses(self, losses: list[Any]) -> bool:
        names = [loss["name"] for loss in losses if isinstance(loss, dict) and isinstance(loss.get("name"), str)]
        return bool(losses) and len(set(names)) == len(names) and all(map(self.at_loss, losses))

    def at_name(self, name: Any) -> bool:
        """Whether the loss is there for the feature type, and its rules are content with its defaults."""
        if not isinstance(name, str) or name not in NAMES:
            return False
        feature_types, *_, is_fine = LOSSES[NAMES[name]]
        return is_fine and (self.kind is None or self.kind in feature_types)

    def at_loss(self, loss: Any) -> bool:
        if isinstance(loss, str):
            return self.at_name(loss)
        if not isinstance(loss, dict) or not self.at_name(loss.get("type")) or id(loss) in self.odd:
            return False
        params = loss.get("params")
        if params is None:
            return self.at_settings(loss)
        if not isinstance(params, dict) or not params.keys().isdisjoint((*loss, *RESERVED)) or id(params) in self.odd:
            return False
        return self.at_settings({**loss, **params})

    def at_settings(self, values: dict[str, Any]) -> bool:
        _, settings, ruled, per_class, roles, _ = LOSSES[NAMES[values["type"]]]
        unusual = 0
        for name, value in values.items():
            if name in ("type", "params"):
                continue
            index = settings.get(name)
            if index is None or not _check(index)(value):
                return False
            if name in ruled and value != ruled[name][0]:
                unusual += 1
                if unusual > 1 or value not in ruled[name]:
                    return False
            if isinstance(value, (dict, list)) and not self.at_items(value):
                return False
            if name == "weight" and isinstance(value, dict) and not self.at_schedule(value):
                return False
            if name == "inputs" and not value.keys() <= set(roles):
                return False
            if name in per_class and not self.at_class_values(value):
                return False
        return True

    def at_items(self, value: dict[str, Any] | list[Any]) -> bool:
        """Whether no number in there is written oddly."""
        items = value.values() if isinstance(value, dict) else value
        return id(value) not in self.odd and not any(isinstance(item, list) and id(item) in self.odd for item in items)

    def at_schedule(self, weight: dict[str, Any]) -> bool:
        """Whether a weight changes, and has no settings of another schedule."""
        start, end = (weight.get(key, SCHEDULE_DEFAULTS[key]) for key in ("from", "to"))
        is_fine = weight["steps"] > 1 if weight["schedule"] == "cyclical" else "ratio" not in weight
        return bool(start != end and is_fine)

    def at_class_values(self, value: Any) -> bool:
        """Whether numbers that stand one per class fit the classes of the feature."""
        if isinstance(value, dict):
            return self.classes is not None and value.keys() == set(self.classes) and any(value.values())
        return not isinstance(value, list) or (self.count in (None, len(value)) and any(value))


@functools.cache
def _check(index: int) -> Check:
    return compiled(CHECKS[index])
