"""Checks what a config says about losses; finds all problems at once, each with its place.

JSON Schema is the rule of record for a loss: its settings are first checked against the schema of the loss that `type`
names, then against the rules across settings that its config class may have.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from losskit.config import MAX_BYTES, MAX_PROBLEMS, Document, Path, Uncollected, read
from losskit.constants import (
    BALANCING_KEY,
    CATEGORY,
    CATEGORY_DISTRIBUTION,
    DEFAULT_LOSSES,
    FEATURE_KEYS,
    FEATURE_TYPES,
    FEATURES_KEY,
    LOSSES_KEY,
    MISSING,
)
from losskit.diagnostics import WARNING, ConfigError, Diagnostic, cut, has_errors, in_order, quoting, show
from losskit.loss_checker import FoundLoss, LossChecker, TooManyProblemsError
from losskit.registry import Registry, registry
from losskit.spelling import NEAR_MISS, OTHER_NAMES, Speller, is_near_miss, meant, nearest, suggested

if TYPE_CHECKING:
    from losskit.balancing_checker import FoundStrategy
    from losskit.schema.base import FeatureConfig, FeatureContext, LossesConfig
    from losskit.strategies import Strategies

# Keys that may be misspelt ones, of which so many are compared letter by letter.
_MAX_COMPARED = 1000
# Of a config that is given as a mapping; more than in a file, since lists may come out of counting.
_MAX_VALUES = 1_000_000
_TYPES_HELP = f"feature types: {', '.join(FEATURE_TYPES)}"


def validate(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    text: str | bytes | None = None,
    name: str | None = None,
    at: str | None = None,
) -> list[Diagnostic]:
    """Checks a config; returns what is wrong with it, sorted by position.

    Args:
        source: the path of a YAML or JSON file, or a mapping (OmegaConf's DictConfig too).
        text: the config itself, in place of `source`.
        name: what to call the text in diagnostics.
        at: where in the config the losses stand, such as `model_config.visual_bert.losses`; without it they stand in
            `output_features` or `losses` at the top.

    Raises:
        OSError: the file cannot be read.
    """
    return Validation(document_of(source, text=text, name=name), at=at).diagnostics


def load(
    source: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    *,
    text: str | bytes | None = None,
    name: str | None = None,
    at: str | None = None,
) -> LossesConfig:
    """Reads a config into its typed form, with defaults filled in. The arguments are those of `validate`.

    Raises:
        ConfigError: the config is wrong; it holds all diagnostics.
        OSError: the file cannot be read.
    """
    return Validation(document_of(source, text=text, name=name), at=at).config()


def document_of(
    source: str | os.PathLike[str] | Mapping[str, Any] | None, *, text: str | bytes | None, name: str | None = None
) -> Document:
    """The document behind a path, a text or a mapping."""
    if (source is None) == (text is None):
        raise TypeError("give a source (a path or a mapping) or text=, one of the two")
    if text is not None:
        return read(text, name)
    if isinstance(source, (str, os.PathLike)):
        if isinstance(source, str) and "\n" in source:
            raise TypeError("the source is no path but looks like YAML; pass it as text=")
        try:
            with open(source, "rb") as file:
                # One byte more than allowed is enough to refuse it, however long it is.
                return read(file.read(MAX_BYTES + 1), name or os.fspath(source))
        except FileNotFoundError:
            if isinstance(source, str) and ": " in source:
                raise TypeError("there is no such file, but the source looks like YAML; pass it as text=") from None
            raise
    return Document(plain(source), name)


def plain(value: Any) -> Any:
    """Mappings and sequences of any kind as dict and list; OmegaConf's containers with their references resolved.

    Raises:
        ValueError: it contains itself, or is larger than any config.
    """
    return _plain(value, 0, [_MAX_VALUES])


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    if value.__class__ in (str, float):
        return value
    if isinstance(value, int):
        # No float can hold a larger one, and beyond some length Python refuses to print it.
        return value if value.bit_length() <= 1024 else math.inf
    if depth > 100:
        raise ValueError("the config is nested deeper than 100 levels, or contains itself")
    if isinstance(value, (Mapping, Sequence)) and not isinstance(value, (str, bytes)):
        # A list that holds another one many times, and so on, would never end.
        left[0] -= len(value)
        if left[0] < 0:
            raise ValueError(f"the config has more than {_MAX_VALUES:,} values")
    if isinstance(value, Mapping):
        return {str(key): _plain(_item(value, key), depth + 1, left) for key in value}
    # OmegaConf's ListConfig is a Sequence, and no list.
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(_item(value, index), depth + 1, left) for index in range(len(value))]
    # Arrays, tensors and their numbers, as they come out of counting classes.
    return value.tolist() if hasattr(value, "tolist") else value


def _item(container: Any, key: Any) -> Any:
    """An item; where OmegaConf cannot resolve its reference, the reference, so that it matters only if it is used."""
    try:
        return container[key]
    except Exception:
        omegaconf = sys.modules.get("omegaconf")
        if omegaconf is None or not omegaconf.OmegaConf.is_config(container):
            raise
        return omegaconf.OmegaConf.to_container(container, resolve=False)[key]


class FoundFeature(NamedTuple):
    """A feature of the config, or a list of losses without one, and what it says of them."""

    name: str | None
    context: FeatureContext
    losses: list[FoundLoss]
    missing: str | None = None


class Validation:
    """One pass over a document: `diagnostics`, and the typed config where there is no error."""

    def __init__(
        self,
        document: Document,
        *,
        at: str | None = None,
        loss_of: FeatureContext | None = None,
        registry: Registry = registry,
        strategies: Strategies | None = None,
    ) -> None:
        """Checks the losses at `at`; with `loss_of`, the document is a single loss of a feature of that kind."""
        self.document = document
        self.registry = registry
        self.strategies = strategies
        self.has_losses = False  # whether the document says anything about losses, right or wrong
        self.features: list[FoundFeature] = []  # with the losses whose names are known
        self.balancing: FoundStrategy | None = None
        # What keys look like, and each context once, so that the losses of an alias are checked once for all features
        # that are alike.
        self._near_misses: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        self._contexts: dict[FeatureContext, FeatureContext] = {}
        self._speller = Speller()
        self._problems = list(document.diagnostics)
        self._checker = LossChecker(document, registry, self._problems)
        try:
            with Uncollected():
                if loss_of is not None:
                    self._check_single_loss(loss_of)
                elif document.data is not None:
                    self._check_document(at)
        except TooManyProblemsError:
            last = self._problems[-1]
            message = f"there are more than {MAX_PROBLEMS:,} problems; the rest of the config is not checked"
            self._problems.append(Diagnostic("LK005", message, position=last.position, end=last.end, file=last.file))
        if any(problem.code in ("LK103", "LK105", "LK108", "LK109") for problem in self._problems):
            self._problems += self.registry.plugin_problems
        self.diagnostics = in_order(self._problems)

    @property
    def losses(self) -> list[list[FoundLoss]]:
        """The losses of each feature, as far as their names are known."""
        return [feature.losses for feature in self.features]

    def config(self) -> LossesConfig:
        """The typed config.

        Raises:
            ConfigError: there are errors.
        """
        from losskit.schema.base import FeatureConfig, LossesConfig

        if has_errors(self.diagnostics):
            raise ConfigError(self.diagnostics)
        features: list[FeatureConfig] = []
        for feature in self.features:
            losses = tuple(found.load() for found in feature.losses)
            context = feature.context
            features.append(
                FeatureConfig(feature.name, context.type, losses, context.num_classes, context.classes, feature.missing)
            )
        return LossesConfig(tuple(features), self.balancing and self.balancing.load())

    def _check_single_loss(self, context: FeatureContext) -> None:
        if context.type is not None and context.type not in FEATURE_TYPES:
            self._report_unknown_type(context.type, ())
            return
        found = self._checker.check(self.document.data, (), context)
        self.features.append(FoundFeature(None, context, found))

    # Where the losses stand

    def _check_document(self, at: str | None) -> None:
        data: Any = self.document.data
        around: Any = None
        path: Path = ()
        if at is not None:
            for step in at.split("."):
                found = _child(data, step)
                if found is None:
                    self._checker.report("LK101", path, f"there is nothing at `{at}`: no `{step}`", on_key=True)
                    return
                path, around, data = (*path, found), data, data[found]
            self.has_losses = True
        if isinstance(data, list) and path:
            check = self._check_features if path[-1] == FEATURES_KEY else self._check_bare_losses
            check(data, path)
            if isinstance(around, dict):
                self._check_near_misses(around, path[:-1], (BALANCING_KEY,))
                self._check_balancing(around, path[:-1])
        else:
            self._check_top_level(data, path)

    def _check_top_level(self, data: Any, path: Path) -> None:
        if not isinstance(data, dict):
            if isinstance(data, list):
                cure = f"put the list under `{FEATURES_KEY}:` or `{LOSSES_KEY}:`"
            else:
                cure = f"a config has `{FEATURES_KEY}:`, a list of features, or `{LOSSES_KEY}:`, a list of losses"
            self._checker.report("LK101", path, f"expected a mapping, found {show(data)}", help=cure)
            return
        present = [key for key in (FEATURES_KEY, LOSSES_KEY) if key in data]
        known = (*present, BALANCING_KEY) if present else (FEATURES_KEY, LOSSES_KEY)
        self._check_near_misses(data, path, known)
        if FEATURES_KEY in data:
            self._check_features(data[FEATURES_KEY], (*path, FEATURES_KEY))
        if LOSSES_KEY in data:
            self._check_bare_losses(data[LOSSES_KEY], (*path, LOSSES_KEY))
        if present:
            self._check_balancing(data, path)
        if FEATURES_KEY in data and LOSSES_KEY in data:
            message = f"`{LOSSES_KEY}` and `{FEATURES_KEY}` stand in one config; keep one of them"
            self._checker.report("LK101", (*path, LOSSES_KEY), message, on_key=True)
        if FEATURES_KEY not in data and LOSSES_KEY not in data:
            message = f"there is neither `{FEATURES_KEY}` nor `{LOSSES_KEY}`, so there are no losses to check"
            help = "`at` leads to a list of losses, or to a mapping that has one of these" if path else None
            self._checker.report("LK101", path, message, help=help)

    def _check_balancing(self, data: dict[str, Any], path: Path) -> None:
        """Checks how the losses are balanced, which stands beside them."""
        if BALANCING_KEY in data:
            from losskit.balancing_checker import check_balancing

            num_losses = None if has_errors(self._problems) else sum(map(len, self.losses))
            self.balancing = check_balancing(
                self._checker, self.strategies, data[BALANCING_KEY], (*path, BALANCING_KEY), num_losses
            )

    def _check_near_misses(
        self, data: dict[str, Any], path: Path, known: tuple[str, ...], present: Collection[str] = ()
    ) -> None:
        for key, value in data.items():
            if is_near_miss(key, known):
                near = [name for name in self._near(key, known) if name not in data and name not in present]
                if near:
                    looks_right = self._looks_right(near[0], value)
                    self.has_losses |= near[0] == FEATURES_KEY or looks_right
                    message = f"`{cut(key)}` is ignored"
                    # The key may be another's, unless what stands there can only be ours.
                    cure = near[0] if looks_right and meant(key, known) == near[0] else None
                    self._checker.report(
                        "LK107", (*path, key), message, on_key=True, severity=WARNING, suggestion=near[0], cure=cure
                    )

    def _near(self, key: str, known: tuple[str, ...]) -> list[str]:
        """Which of `known` a key looks like; asked of so many keys that it takes no long time."""
        if (key, known) not in self._near_misses:
            if len(self._near_misses) >= _MAX_COMPARED:
                return []
            slip = meant(key, known)
            other = OTHER_NAMES.get(key.lower())
            near = [other] if other in known else [slip] if slip else nearest(key, known, NEAR_MISS)
            self._near_misses[key, known] = near
        return self._near_misses[key, known]

    def _looks_right(self, key: str, value: Any) -> bool:
        """Whether `value` is what stands under `key`: features with types of ours, or losses and strategies we know."""
        if key == BALANCING_KEY:
            from losskit.strategies import strategies

            kind = value.get("type") if isinstance(value, dict) else value
            return isinstance(kind, str) and (self.strategies or strategies).find(kind) is not None
        items = value if isinstance(value, list) else [value]
        kinds = [item.get("type") if isinstance(item, dict) else item for item in items]
        if key == FEATURES_KEY:
            return bool(kinds) and all(isinstance(kind, str) and kind in FEATURE_TYPES for kind in kinds)
        if key not in ("loss", LOSSES_KEY):
            return False
        return bool(kinds) and all(isinstance(kind, str) and self.registry.find(kind) for kind in kinds)

    # Features

    def _check_features(self, features: Any, path: Path) -> None:
        # Others call numbers so, such as the size of a layer.
        self.has_losses |= not isinstance(features, (bool, int, float))
        if not isinstance(features, list) or not features:
            message = f"`{FEATURES_KEY}` must be a list of features, got {show(features)}"
            self._checker.report("LK101", path, message, help="each feature begins with `- `")
            return
        first: dict[str, Path] = {}
        for index, feature in enumerate(features):
            where = (*path, index)
            if not isinstance(feature, dict):
                self._checker.report("LK101", where, f"a feature must be a mapping, got {show(feature)}")
                continue
            self._check_feature(feature, where)
            name = feature.get("name")
            if isinstance(name, str) and name:
                if name in first:
                    entry = self.document.entry((*first[name], "name"))
                    line = f" on line {entry.value.start.line}" if entry else ""
                    message = f"the name {show(name)} is taken by an earlier feature{line}"
                    self._checker.report("LK106", (*where, "name"), message)
                else:
                    first[name] = where

    def _check_feature(self, feature: dict[str, Any], path: Path) -> None:
        from losskit.schema.base import FeatureContext

        self._check_keys(feature, path)
        name, feature_type = feature.get("name"), feature.get("type")
        if "name" in feature and not isinstance(name, str):
            self._checker.report("LK202", (*path, "name"), f"`name` must be text, got {show(name)}", help=quoting(name))
        if name == "":
            self._checker.report("LK202", (*path, "name"), "`name` is empty")
        if "type" in feature and not isinstance(feature_type, str):
            self._checker.report("LK202", (*path, "type"), f"`type` must be text, got {show(feature_type)}")
        known = isinstance(feature_type, str) and feature_type in FEATURE_TYPES
        if isinstance(feature_type, str) and not known:
            self._report_unknown_type(feature_type, (*path, "type"))
        num_classes, classes = self._check_classes(feature, path)
        if num_classes == 1 and feature_type in (CATEGORY, CATEGORY_DISTRIBUTION):
            where = (*path, "classes" if "classes" in feature else "num_classes")
            message = f"a {feature_type} feature of a single class leaves nothing to learn: its loss is always 0"
            help = "count all classes; for yes or no, use a binary feature"
            self._checker.report("LK207", where, message, help=help)
        context = FeatureContext(str(feature_type) if known else None, num_classes, classes, self._speller)
        context = self._contexts.setdefault(context, context)
        if "loss" in feature:
            found = self._checker.check(feature["loss"], (*path, "loss"), context)
        elif context.type:
            found = self._default_loss(context.type, path, context)
        else:
            found = []
        self._check_beside(feature, path, found)
        missing = self._check_missing(feature, path)
        self.features.append(FoundFeature(name if isinstance(name, str) else None, context, found, missing))

    def _check_keys(self, feature: dict[str, Any], path: Path) -> None:
        """Reports a missing `name` or `type`, at the key that is it, misspelt, where there is one; and near misses."""
        missing = [key for key in ("name", "type") if key not in feature]
        near = {key: next((k for k in itertools.islice(feature, 100) if meant(k, (key,))), None) for key in missing}
        rest = {key: value for key, value in feature.items() if key not in near.values()}
        self._check_near_misses(rest, path, FEATURE_KEYS, present=(*feature, *missing))
        for key, written in near.items():
            message, help = f"the feature has no `{key}`", _TYPES_HELP if key == "type" else None
            if written is None:
                self._checker.report("LK102", path, message, help=help)
            else:
                message += f", but `{cut(written)}`"
                where = (*path, written)
                self._checker.report("LK102", where, message, on_key=True, suggestion=key, help=help, cure=key)

    def _check_beside(self, feature: dict[str, Any], path: Path, losses: list[FoundLoss]) -> None:
        """Warns of settings that stand beside `loss`, and of what belongs to the whole config: it would be ignored."""
        if BALANCING_KEY in feature:
            message = f"`{BALANCING_KEY}` has no effect on a feature"
            help = f"put it beside `{FEATURES_KEY}`: it is for the losses of all features"
            self._checker.report("LK303", (*path, BALANCING_KEY), message, on_key=True, severity=WARNING, help=help)
        settings = {"params"}.union(*(found.entry.schema["properties"] for found in losses)) if losses else set()
        for key in feature:
            if key in settings and key not in FEATURE_KEYS:
                message = f"`{cut(key)}` has no effect on a feature: settings stand in its loss"
                help = f"write `loss: {{type: {losses[0].entry.name}, {cut(key)}: …}}`"
                self._checker.report("LK303", (*path, key), message, on_key=True, severity=WARNING, help=help)

    def _report_unknown_type(self, feature_type: str, path: Path) -> None:
        suggestion, cure = suggested(feature_type, FEATURE_TYPES)
        message = f"no feature type {show(feature_type)}"
        self._checker.report("LK104", path, message, suggestion=suggestion, help=_TYPES_HELP, cure=cure)

    def _check_classes(self, feature: dict[str, Any], path: Path) -> tuple[int | None, tuple[str, ...] | None]:
        """The number of classes and their names, as far as the feature says them."""
        count: Any = feature.get("num_classes")
        if isinstance(count, float) and count.is_integer():
            count = int(count)
        if "num_classes" in feature and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            message = f"`num_classes` must be an integer of at least 1, got {show(count)}"
            cure = count if isinstance(count, str) and re.fullmatch("[1-9][0-9]{0,8}", count) else None
            self._checker.report(
                "LK203" if type(count) is int else "LK202",
                (*path, "num_classes"),
                message,
                help=f"write {cure} without quotes" if cure else None,
                cure=cure,
                keeps_quotes=False,
            )
            count = None
        if "classes" not in feature:
            return count, None
        names, where = feature["classes"], (*path, "classes")
        if not isinstance(names, list) or not names:
            self._checker.report("LK202", where, f"`classes` must be a list of names, got {show(names)}")
            return count, None
        seen: set[str] = set()
        for index, name in enumerate(names):
            if not isinstance(name, str):
                message = f"a class name must be text, got {show(name)}"
                self._checker.report("LK202", (*where, index), message, help=quoting(name))
            elif name in seen:
                self._checker.report("LK206", (*where, index), f"`classes` names {show(name)} twice")
            seen.add(str(name))
        if count is not None and count != len(names):
            message = f"`num_classes` is {count}, but `classes` names {len(names)}"
            self._checker.report("LK206", (*path, "num_classes"), message)
        return len(names), tuple(map(str, names))

    def _check_missing(self, feature: dict[str, Any], path: Path) -> str | None:
        """What the feature says of labels that are missing."""
        value = feature.get("missing")
        if "missing" in feature and value not in MISSING:
            suggestion, cure = suggested(value, MISSING) if isinstance(value, str) else (None, None)
            message = f"`missing` must be {' or '.join(MISSING)}, got {show(value)}"
            help = "`mask` leaves out targets that are NaN; without `missing`, all targets count"
            where = (*path, "missing")
            self._checker.report("LK204", where, message, suggestion=suggestion, help=help, cure=cure)
        return value if isinstance(value, str) else None

    def _default_loss(self, feature_type: str, path: Path, context: FeatureContext) -> list[FoundLoss]:
        name = DEFAULT_LOSSES.get(feature_type)
        entry = self.registry.find(name) if name else None
        if entry is None:
            message = f"{feature_type} features have no default loss; add `loss:`"
            self._checker.report("LK108", (*path, "type"), message, help=self._checker.names_help(context))
            return []
        return [FoundLoss(entry, {"type": entry.name}, {"type": path})]

    def _check_bare_losses(self, losses: Any, path: Path) -> None:
        from losskit.schema.base import FeatureContext

        # Other tools call other things so: a training history has numbers.
        if not isinstance(losses, list):
            is_name = isinstance(losses, str) and self.registry.find(losses) is not None
            self.has_losses |= is_name or (isinstance(losses, dict) and "type" in losses)
            message = f"`{path[-1] if path else LOSSES_KEY}` must be a list of losses, got {show(losses)}"
            self._checker.report("LK101", path, message, help="each loss begins with `- `")
            return
        self.has_losses |= any(isinstance(loss, str) or self._says_type(loss) for loss in losses[:100])
        context = FeatureContext()
        self.features.append(FoundFeature(None, context, self._checker.check(losses, path, context)))

    def _says_type(self, loss: Any) -> bool:
        """Whether a mapping says which loss it is, in the right way or nearly so."""
        if not isinstance(loss, dict):
            return False
        return "type" in loss or any(
            meant(key, ("type",)) or self.registry.find(key) for key in itertools.islice(loss, 9)
        )


def _child(data: Any, step: str) -> str | int | None:
    if isinstance(data, dict) and step in data:
        return step
    if isinstance(data, list) and step.isascii() and step.isdigit() and len(step) < 9 and int(step) < len(data):
        return int(step)
    return None
