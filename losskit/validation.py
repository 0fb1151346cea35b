"""Checks what a config says about losses; finds all problems at once, each with its place.

JSON Schema is the rule of record for a loss: its settings are first checked against the schema of the loss that `type`
names, then against the rules across settings that its config class may have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple

from losskit.config import Document, Path, number_notation_warning, read
from losskit.constants import DEFAULT_LOSSES, FEATURE_TYPES
from losskit.diagnostics import ERROR, WARNING, ConfigError, Diagnostic, in_order, listing, nearest, show
from losskit.registry import LossEntry, Registry, registry
from losskit.settings import setting_errors

if TYPE_CHECKING:
    from losskit.schema.base import BaseLossConfig, FeatureConfig, FeatureContext, LossesConfig

FEATURES_KEY = "output_features"
LOSSES_KEY = "losses"
_FEATURE_KEYS = ("name", "type", "loss", "num_classes", "classes")
# What a loss may say about itself beside its settings, and where MMF puts those.
_OUTSIDE_PARAMS = ("type", "weight", "name", "inputs")


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
            return read(FilePath(source).read_bytes(), name or os.fspath(source))
        except FileNotFoundError:
            if isinstance(source, str) and ": " in source:
                raise TypeError("there is no such file, but the source looks like YAML; pass it as text=") from None
            raise
    return Document(plain(source), name)


def plain(value: Any, depth: int = 0) -> Any:
    """Mappings and sequences of any kind as dict and list; OmegaConf's containers with their references resolved."""
    omegaconf = sys.modules.get("omegaconf")
    if omegaconf and omegaconf.OmegaConf.is_config(value):
        value = omegaconf.OmegaConf.to_container(value, resolve=True)
    if depth > 100:
        raise ValueError("the config is nested deeper than 100 levels, or contains itself")
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    # Arrays, tensors and their numbers, as they come out of counting classes.
    return value.tolist() if hasattr(value, "tolist") else value


class _Found(NamedTuple):
    """A loss of the config whose type is known: what it says, and where each key stands."""

    entry: LossEntry
    values: dict[str, Any]
    paths: dict[str, Path]


class _Feature(NamedTuple):
    name: str | None
    context: FeatureContext
    losses: list[_Found]


class Validation:
    """One pass over a document: `diagnostics`, and the typed config where there is no error."""

    def __init__(
        self,
        document: Document,
        *,
        at: str | None = None,
        loss_of: FeatureContext | None = None,
        registry: Registry = registry,
    ) -> None:
        """Checks the losses at `at`; with `loss_of`, the document is a single loss of a feature of that kind."""
        self.document = document
        self.registry = registry
        self.has_losses = False  # whether the document says anything about losses, right or wrong
        self._features: list[_Feature] = []
        self._problems = list(document.diagnostics)
        if loss_of is not None:
            self._check_single_loss(loss_of)
        elif document.data is not None:
            self._check_document(at)
        if any(problem.code in ("LK103", "LK105") for problem in self._problems):
            self._problems += self.registry.plugin_problems
        self.diagnostics = in_order(self._problems)

    def config(self) -> LossesConfig:
        """The typed config.

        Raises:
            ConfigError: there are errors.
        """
        from losskit.schema.base import FeatureConfig, LossesConfig

        if any(problem.severity == ERROR for problem in self.diagnostics):
            raise ConfigError(self.diagnostics)
        features: list[FeatureConfig] = []
        for feature in self._features:
            losses = tuple(_load(found) for found in feature.losses)
            context = feature.context
            features.append(FeatureConfig(feature.name, context.type, losses, context.num_classes, context.classes))
        return LossesConfig(tuple(features))

    def _check_single_loss(self, context: FeatureContext) -> None:
        if context.type is not None and context.type not in FEATURE_TYPES:
            near = nearest(context.type, FEATURE_TYPES)
            message = f"no feature type {show(context.type)}"
            self._report("LK104", (), message, suggestion=near[0] if near else None)
            return
        found = self._check_losses(self.document.data, (), context)
        self._features.append(_Feature(None, context, found))

    # Where the losses stand

    def _check_document(self, at: str | None) -> None:
        data: Any = self.document.data
        path: Path = ()
        if at is not None:
            self.has_losses = True
            for step in at.split("."):
                found = _child(data, step)
                if found is None:
                    self._report("LK101", path, f"there is nothing at `{at}`: no `{step}`", on_key=True)
                    return
                path, data = (*path, found), data[found]
        if isinstance(data, list) and path:
            check = self._check_features if path[-1] == FEATURES_KEY else self._check_bare_losses
            check(data, path)
        else:
            self._check_top_level(data, path)

    def _check_top_level(self, data: Any, path: Path) -> None:
        if not isinstance(data, dict):
            if isinstance(data, list):
                cure = f"put the list under `{FEATURES_KEY}:` or `{LOSSES_KEY}:`"
            else:
                cure = f"a config has `{FEATURES_KEY}:`, a list of features, or `{LOSSES_KEY}:`, a list of losses"
            self._report("LK101", path, f"expected a mapping, found {show(data)}", help=cure)
            return
        self._check_near_misses(data, path, (FEATURES_KEY, LOSSES_KEY))
        if FEATURES_KEY in data:
            self._check_features(data[FEATURES_KEY], (*path, FEATURES_KEY))
        if LOSSES_KEY in data:
            self._check_bare_losses(data[LOSSES_KEY], (*path, LOSSES_KEY))
        if FEATURES_KEY in data and LOSSES_KEY in data:
            message = f"`{LOSSES_KEY}` and `{FEATURES_KEY}` stand in one config; keep one of them"
            self._report("LK101", (*path, LOSSES_KEY), message, on_key=True)
        if FEATURES_KEY not in data and LOSSES_KEY not in data:
            message = f"there is neither `{FEATURES_KEY}` nor `{LOSSES_KEY}`, so there are no losses to check"
            self._report("LK101", path, message)

    def _check_near_misses(self, data: dict[str, Any], path: Path, known: tuple[str, ...]) -> None:
        for key in data:
            if key not in known:
                near = [name for name in nearest(key, known, cutoff=0.8) if name not in data]
                if near:
                    self.has_losses |= near[0] == FEATURES_KEY
                    message = f"`{key[:40]}` is ignored"
                    self._report("LK107", (*path, key), message, on_key=True, severity=WARNING, suggestion=near[0])

    # Features

    def _check_features(self, features: Any, path: Path) -> None:
        self.has_losses = True
        if not isinstance(features, list) or not features:
            self._report("LK101", path, f"`{FEATURES_KEY}` must be a list of features, got {show(features)}")
            return
        first: dict[str, Path] = {}
        for index, feature in enumerate(features):
            where = (*path, index)
            if not isinstance(feature, dict):
                self._report("LK101", where, f"a feature must be a mapping, got {show(feature)}")
                continue
            self._check_feature(feature, where)
            name = feature.get("name")
            if isinstance(name, str) and name:
                if name in first:
                    entry = self.document.entry((*first[name], "name"))
                    line = f" on line {entry.value.start.line}" if entry else ""
                    message = f"the name {show(name)} is taken by an earlier feature{line}"
                    self._report("LK106", (*where, "name"), message)
                else:
                    first[name] = where

    def _check_feature(self, feature: dict[str, Any], path: Path) -> None:
        from losskit.schema.base import FeatureContext

        self._check_near_misses(feature, path, _FEATURE_KEYS)
        name, feature_type = feature.get("name"), feature.get("type")
        for key in ("name", "type"):
            if key not in feature:
                allowed = f"feature types: {', '.join(FEATURE_TYPES)}" if key == "type" else None
                self._report("LK102", path, f"the feature has no `{key}`", help=allowed)
        if "name" in feature and not isinstance(name, str):
            help = f'quote it: "{name}"' if isinstance(name, (int, float)) else None
            self._report("LK202", (*path, "name"), f"`name` must be text, got {show(name)}", help=help)
        if name == "":
            self._report("LK202", (*path, "name"), "`name` is empty")
        if "type" in feature and not isinstance(feature_type, str):
            self._report("LK202", (*path, "type"), f"`type` must be text, got {show(feature_type)}")
        known = isinstance(feature_type, str) and feature_type in FEATURE_TYPES
        if isinstance(feature_type, str) and not known:
            near = nearest(feature_type, FEATURE_TYPES)
            message = f"no feature type {show(feature_type)}"
            help = f"feature types: {', '.join(FEATURE_TYPES)}"
            self._report("LK104", (*path, "type"), message, suggestion=near[0] if near else None, help=help)
        num_classes, classes = self._check_classes(feature, path)
        context = FeatureContext(str(feature_type) if known else None, num_classes, classes)
        if "loss" in feature:
            found = self._check_losses(feature["loss"], (*path, "loss"), context)
        elif context.type:
            found = self._default_loss(context.type, path)
        else:
            found = []
        self._features.append(_Feature(name if isinstance(name, str) else None, context, found))

    def _check_classes(self, feature: dict[str, Any], path: Path) -> tuple[int | None, tuple[str, ...] | None]:
        count: Any = feature.get("num_classes")
        classes: Any = feature.get("classes")
        good_count = good_classes = False
        if "num_classes" in feature:
            good_count = isinstance(count, int) and not isinstance(count, bool) and count > 0
            if not good_count:
                message = f"`num_classes` must be an integer of at least 1, got {show(count)}"
                self._report("LK202", (*path, "num_classes"), message)
        if "classes" in feature:
            where = (*path, "classes")
            good_classes = isinstance(classes, list) and bool(classes) and all(isinstance(c, str) for c in classes)
            if not good_classes:
                found = (
                    next((c for c in classes if not isinstance(c, str)), None) if isinstance(classes, list) else None
                )
                got = show(classes) if not isinstance(classes, list) or not classes else f"{show(found)} in it"
                self._report(
                    "LK202", where, f"`classes` must be a list of texts, got {got}", help="quote what is no text"
                )
            elif len(set(classes)) < len(classes):
                twice = next(c for index, c in enumerate(classes) if c in classes[:index])
                self._report("LK206", where, f"`classes` names {show(twice)} twice")
        if good_count and good_classes and count != len(classes):
            message = f"`num_classes` is {count}, but `classes` names {len(classes)}"
            self._report("LK206", (*path, "num_classes"), message)
        names = tuple(classes) if good_classes else None
        return (len(names) if names else count if good_count else None), names

    def _default_loss(self, feature_type: str, path: Path) -> list[_Found]:
        name = DEFAULT_LOSSES.get(feature_type)
        entry = self.registry.find(name) if name else None
        if entry is None:
            names = ", ".join(self.registry.names(feature_type))
            help = f"losses for {feature_type}: {names or 'none yet'}"
            message = f"{feature_type} features have no default loss; add `loss:`"
            self._report("LK108", (*path, "type"), message, help=help)
            return []
        return [_Found(entry, {"type": entry.name}, {"type": path})]

    # Losses

    def _check_bare_losses(self, losses: Any, path: Path) -> None:
        from losskit.schema.base import FeatureContext

        self.has_losses = True
        if not isinstance(losses, list):
            message = f"`{path[-1] if path else LOSSES_KEY}` must be a list of losses, got {show(losses)}"
            self._report("LK101", path, message)
            return
        context = FeatureContext()
        self._features.append(_Feature(None, context, self._check_losses(losses, path, context)))

    def _check_losses(self, losses: Any, path: Path, context: FeatureContext) -> list[_Found]:
        if not isinstance(losses, list):
            return list(self._check_loss(losses, path, context))
        if not losses:
            self._report("LK101", path, "the list of losses is empty", help=self._names_help(context))
        found: list[_Found] = []
        for index, loss in enumerate(losses):
            found += self._check_loss(loss, (*path, index), context)
        self._check_names(found)
        return found

    def _check_names(self, found: list[_Found]) -> None:
        seen: set[str] = set()
        for loss in found:
            name = loss.values.get("name")
            if isinstance(name, str):
                if name in seen:
                    message = f"the name {show(name)} is taken by an earlier loss of this feature"
                    self._report("LK106", loss.paths["name"], message)
                seen.add(name)

    def _check_loss(self, loss: Any, path: Path, context: FeatureContext) -> Iterator[_Found]:
        if isinstance(loss, str):
            values: dict[str, Any] = {"type": loss}
            paths: dict[str, Path] = {"type": path}
        elif isinstance(loss, dict):
            values, paths = self._flattened(loss, path)
        else:
            message = f"a loss must be a name or a mapping with `type`, got {show(loss)}"
            self._report("LK101", path, message, help=self._names_help(context))
            return
        kind = values.get("type")
        if "type" not in values:
            near = nearest("type", loss, cutoff=0.7)
            if len(loss) == 1 and self.registry.find(next(iter(loss))):
                (name,) = loss
                cure = f"write {{type: {name}, …}}, with the settings beside `type`"
                self._report("LK102", path, "the loss has no `type`", help=cure)
            elif near:
                message = f"the loss has no `type`, but `{near[0]}`"
                self._report(
                    "LK102", (*path, near[0]), message, on_key=True, suggestion="type", help=self._names_help(context)
                )
            else:
                self._report("LK102", path, "the loss has no `type`", help=self._names_help(context))
            return
        if not isinstance(kind, str):
            self._report(
                "LK202",
                paths["type"],
                f"`type` must be the name of a loss, got {show(kind)}",
                help=self._names_help(context),
            )
            return
        entry = self.registry.find(kind)
        if entry is None:
            near = self.registry.suggest(kind, context.type)
            suggestion = near[0] if near else None
            self._report(
                "LK103",
                paths["type"],
                f"no loss named {show(kind)}",
                suggestion=suggestion,
                help=self._names_help(context),
            )
            return
        if context.type and context.type not in entry.feature_types:
            types = ", ".join(entry.feature_types)
            others = listing(self.registry.names(context.type))
            message = f"{show(kind)} is a loss for {types}, not for {context.type}, which takes {others or 'none'}"
            self._report("LK105", paths["type"], message, help=self._names_help(context))
            return
        found = _Found(entry, values, paths)
        before = len(self._problems)
        self._check_settings(found, path)
        errors = any(problem.severity == ERROR for problem in self._problems[before:])
        if not errors and entry.has_rules:
            self._check_rules(found, context)
        yield found

    def _flattened(self, loss: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Path]]:
        """The loss with what stands under `params` beside the rest."""
        values = {key: value for key, value in loss.items() if key != "params"}
        paths: dict[str, Path] = {key: (*path, key) for key in values}
        params = loss.get("params", {})
        if not isinstance(params, dict):
            if params is not None:
                self._report("LK202", (*path, "params"), f"`params` must be a mapping of settings, got {show(params)}")
            return values, paths
        for key, value in params.items():
            where = (*path, "params", key)
            if key in values:
                self._report("LK002", where, f"`{key}` stands both in `params` and beside it", on_key=True)
            elif key in _OUTSIDE_PARAMS:
                self._report("LK201", where, f"`{key}` is no setting: put it beside `params`, not into it", on_key=True)
            else:
                values[key], paths[key] = value, where
        return values, paths

    def _check_settings(self, found: _Found, path: Path) -> None:
        entry, values, paths = found
        properties = entry.schema["properties"]
        settings = [name for name in properties if name not in ("type", "name", "inputs")]
        for key in values:
            if key not in properties:
                near = nearest(key, properties)
                suggestion = near[0] if near else None
                help = f"settings of `{entry.name}`: {', '.join(settings)}"
                message = f"`{entry.name}` has no setting `{key[:40]}`"
                if key in entry.left_out:
                    message += " in a config: YAML cannot hold it"
                self._report("LK201", paths[key], message, on_key=True, suggestion=suggestion, help=help)
        for error in setting_errors(entry, values):
            where = (*paths[error.setting], *error.steps)
            self._report(error.code, where, error.message, suggestion=error.suggestion, help=error.help)
        for key, value in values.items():
            self._warn_of_notation(value, paths[key])
        for role in self._roles_of(values):
            if role not in entry.inputs:
                near = nearest(role, entry.inputs)
                message = f"`{entry.name}` takes no input `{role[:40]}`"
                where = (*paths["inputs"], role)
                help = f"inputs of `{entry.name}`: {', '.join(entry.inputs)}"
                self._report("LK208", where, message, on_key=True, suggestion=near[0] if near else None, help=help)

    @staticmethod
    def _roles_of(values: dict[str, Any]) -> list[str]:
        inputs = values.get("inputs")
        return list(inputs) if isinstance(inputs, dict) else []

    def _warn_of_notation(self, value: Any, path: Path) -> None:
        if isinstance(value, (dict, list)):
            # Settings are rows of numbers at most: deeper values are wrong, and reported already.
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for step, item in items:
                if not isinstance(item, dict):
                    self._warn_of_notation(item, (*path, step))
        elif isinstance(value, (int, float)) and (warning := number_notation_warning(self.document, path)):
            self._problems.append(warning)

    def _check_rules(self, found: _Found, context: FeatureContext) -> None:
        config = found.entry.config.load()(**found.values)
        for problem in config.problems(context):
            path = found.paths.get(problem.setting, found.paths["type"])
            message = f"`{problem.setting}` of `{found.entry.name}` {problem.message}"
            self._report(problem.code, path, message, severity=problem.severity, help=problem.help)

    def _names_help(self, context: FeatureContext) -> str:
        # Only for a problem: to list all names, plugins are looked for, which takes 20 ms.
        where = f" for {context.type}" if context.type else ""
        return f"losses{where}: {', '.join(self.registry.names(context.type))}"

    def _report(self, code: str, path: Path, message: str, **options: Any) -> None:
        self._problems.append(self.document.diagnose(code, path, message, **options))


def _child(data: Any, step: str) -> str | int | None:
    if isinstance(data, dict) and step in data:
        return step
    if isinstance(data, list) and step.isdigit() and int(step) < len(data):
        return int(step)
    return None


def _load(found: _Found) -> BaseLossConfig:
    """The typed form of a loss that JSON Schema has accepted."""
    config_cls = found.entry.config.load()
    values = {**found.values, "type": found.entry.name}
    config: BaseLossConfig = config_cls.schema().load(values)
    return config
