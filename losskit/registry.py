"""Which losses there are: their names, feature types, configs and modules.

The built-in ones are read from the generated `catalogue.json`, so that asking for names, settings or schemas imports
neither torch nor the modules; `LossEntry.module.load()` does.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from losskit.constants import DEFAULT_LOSSES, FEATURE_TYPES
from losskit.diagnostics import WARNING, Diagnostic, listing
from losskit.schema import catalogue
from losskit.spelling import MAX_LENGTH, meant, nearest

if TYPE_CHECKING:
    from torch import nn

    from losskit.schema.base import BaseLossConfig

PLUGIN_GROUP = "losskit.losses"
PLUGIN_VARIABLE = "LOSSKIT_PLUGINS"

# What others call losses, where the letters do not lead to our name; they are suggested, and never taken for it.
CALLED_ELSEWHERE = {
    **dict.fromkeys(("ce", "ce_loss", "xent", "categorical_crossentropy"), "cross_entropy"),
    "sparse_categorical_crossentropy": "cross_entropy",
    "bce_logits": "bce_with_logits",
    **dict.fromkeys(("kl", "kld", "kl_loss"), "kl_div"),
    **dict.fromkeys(("soft_dice", "soft_dice_loss"), "dice"),
    **dict.fromkeys(("triplet", "triplet_loss"), "triplet_margin"),
    "simclr": "nt_xent",
    **dict.fromkeys(("cosine", "cosine_similarity"), "cosine_embedding"),
}

L = TypeVar("L", bound=Callable[..., Any])


class RegistrationError(TypeError):
    """A loss cannot be registered as it is."""


class UnknownLossError(KeyError):
    """No loss has the name, or none has it for the feature type."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would put the sentence in quotes


@dataclass(frozen=True)
class Reference:
    """A class that is imported when it is needed: `package.module:Class`."""

    path: str
    loaded: Any = field(default=None, compare=False, repr=False)

    def load(self) -> Any:
        """The class; for a registered function, the module class around it."""
        found = self.loaded
        if found is None:
            module, _, name = self.path.partition(":")
            found = functools.reduce(getattr, name.split("."), importlib.import_module(module))
        if inspect.isclass(found):
            return found
        from losskit.modules.function import module_of

        return module_of(found)


@dataclass(frozen=True, eq=False)
class LossEntry:
    """All that is known of a loss without importing it."""

    name: str
    feature_types: tuple[str, ...]
    aliases: tuple[str, ...]
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    summary: str
    has_rules: bool
    config: Reference
    module: Reference
    # What the loss takes where it is there, as keyword arguments.
    optional_inputs: tuple[str, ...] = ()
    optional_targets: tuple[str, ...] = ()
    # Parameters of the constructor that YAML cannot hold, and that a config therefore cannot set.
    left_out: tuple[str, ...] = ()
    # Names that the loss once had: configs that use them are still right, and are warned.
    deprecated_aliases: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All names that a config may use."""
        return [*self.lasting_names, *self.deprecated_aliases]

    @property
    def lasting_names(self) -> list[str]:
        """The names that may be suggested."""
        return [self.name, *self.aliases]

    @property
    def roles(self) -> list[str]:
        """All that `inputs` of a config can rename."""
        return list(dict.fromkeys((*self.inputs, *self.optional_inputs, *self.targets, *self.optional_targets)))

    def misfit(self, called: str, feature_type: str, others: Iterable[str]) -> str:
        """Says that the loss is not for a feature type, and which are."""
        rest = f"which takes {listing(others)}" if others else "which has no losses yet"
        return f"{called} is a loss for {', '.join(self.feature_types)}, not for {feature_type}, {rest}"

    @functools.cached_property
    def is_built_in(self) -> bool:
        """Whether the generated files know it; a class of ours that a user registers under another name is not."""
        return any(row["name"] == self.name and row["module"] == self.module.path for row in catalogue.rows())

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the loss's settings, without references to other schemas."""
        definition = f"loss_{self.name}" if self.is_built_in else None
        return settings_schema(definition, self.config, self.names, self.summary, self.roles)


class Registry:
    """Losses by name. There is one, `losskit.registry.registry`; others are for tests."""

    def __init__(self, rows: Callable[[], Iterable[dict[str, Any]]] = list, *, has_plugins: bool = False) -> None:
        self._rows = rows
        self._entries: dict[str, LossEntry] | None = None
        self._names: dict[str, str] = {}
        self._plugins_loaded = not has_plugins
        self.plugin_problems: list[Diagnostic] = []

    # Looking up

    def entries(self) -> list[LossEntry]:
        """Every loss, plugins included, sorted by name."""
        self.load_plugins()
        return sorted(self._all().values(), key=lambda entry: entry.name)

    def find(self, name: str) -> LossEntry | None:
        """The loss of this name or alias. Plugins are imported only if no other loss has the name."""
        entries = self._all()
        if name not in self._names:
            self.load_plugins()
        return entries[self._names[name]] if name in self._names else None

    def get(self, name: str, feature_type: str | None = None) -> LossEntry:
        """The loss of this name or alias.

        Raises:
            UnknownLossError: there is none, or it does not support `feature_type`.
        """
        if feature_type is not None:
            check_feature_types([feature_type], UnknownLossError)
        entry = self.find(name)
        if entry is None:
            near = self.suggest(name, feature_type)
            raise UnknownLossError(f"no loss named {name!r}" + (f"; did you mean {listing(near)}?" if near else ""))
        if feature_type is not None and feature_type not in entry.feature_types:
            raise UnknownLossError(entry.misfit(repr(name), feature_type, self.usual_names(feature_type)))
        return entry

    def names(self, feature_type: str | None = None) -> list[str]:
        """The names of all losses, or of those for a feature type, sorted and without aliases."""
        if feature_type is not None:
            check_feature_types([feature_type], UnknownLossError)
        return [e.name for e in self.entries() if feature_type is None or feature_type in e.feature_types]

    def usual_names(self, feature_type: str | None = None) -> list[str]:
        """As `names`, the default of the feature type first."""
        default = DEFAULT_LOSSES.get(feature_type or "")
        return sorted(self.names(feature_type), key=lambda name: name != default)

    def suggest(self, name: str, feature_type: str | None = None) -> list[str]:
        """Names that look like `name`, those for `feature_type` first."""
        if len(name) > MAX_LENGTH:
            return []
        by_name = {n: e.feature_types for e in self.entries() for n in e.lasting_names}
        fitting = [n for n, types in by_name.items() if feature_type is None or feature_type in types]
        elsewhere = CALLED_ELSEWHERE.get(name.lower().replace("-", "_"))
        if elsewhere in by_name:
            return [elsewhere]
        stem = name.lower().removesuffix("loss").rstrip("_- ") or name
        # A class's name, such as BCEWithLogitsLoss, has the letters of the loss's name.
        letters = _letters(name)
        same = [n for names in (fitting, by_name) for n in names if n.replace("_", "") == letters]
        if same:
            return same[:1]
        words = dict.fromkeys((stem, name))
        others = by_name.keys() - fitting
        near = (n for word in words for names in (fitting, sorted(others)) for n in nearest(word, names))
        return list(dict.fromkeys(near))[:5]

    def meant(self, name: str, feature_type: str | None = None, near: Sequence[str] | None = None) -> str | None:
        """The one loss for `feature_type` that a misspelt name can stand for; `near` is what `suggest` returned."""
        entries = [e for e in self.entries() if feature_type is None or feature_type in e.feature_types]
        names = [n for e in entries for n in e.lasting_names]
        near = self.suggest(name, feature_type) if near is None else near
        is_same = bool(near) and near[0].replace("_", "") == _letters(name)
        found = near[0] if is_same else meant(name, names)
        return found if found in names else None

    def _all(self) -> dict[str, LossEntry]:
        if self._entries is None:
            self._entries = {}
            for row in self._rows():
                tuples = {key: tuple(value) for key, value in row.items() if isinstance(value, list)}
                references = {key: Reference(row[key]) for key in ("config", "module")}
                self._add(LossEntry(**{**row, **tuples, **references}))
        return self._entries

    # Registering

    def add(self, entry: LossEntry) -> None:
        """Adds a loss, or replaces the same class's earlier registration.

        Raises:
            RegistrationError: one of its names belongs to another loss.
        """
        entries = self._all()
        for name in entry.names:
            holder = entries.get(self._names.get(name, ""))
            # Functions without a name of their own have all the same path.
            same = holder and holder.module.path == entry.module.path and "<lambda>" not in entry.module.path
            if holder and not same:
                raise RegistrationError(
                    f"the name {name!r} of {entry.module.path} is taken by {holder.module.path}; choose another name"
                )
        for old in [e for e in entries.values() if e.module.path == entry.module.path and e.name == entry.name]:
            for name in old.names:
                self._names.pop(name, None)
        self._add(entry)

    def _add(self, entry: LossEntry) -> None:
        assert self._entries is not None
        self._entries[entry.name] = entry
        self._names.update(dict.fromkeys(entry.names, entry.name))

    # Plugins

    def load_plugins(self) -> None:
        """Imports the modules behind the entry points `losskit.losses` and those in LOSSKIT_PLUGINS, once."""
        if self._plugins_loaded:
            return
        self._plugins_loaded = True
        if _is_offered_anywhere():
            from importlib.metadata import entry_points

            for point in sorted(entry_points(group=PLUGIN_GROUP), key=lambda point: point.name):
                self._load_plugin(f"the plugin {point.name!r} ({point.value})", point.load)
        for module in filter(None, os.environ.get(PLUGIN_VARIABLE, "").split(",")):
            name = module.strip()
            self._load_plugin(
                f"the plugin {name!r} of {PLUGIN_VARIABLE}", functools.partial(importlib.import_module, name)
            )

    def _load_plugin(self, what: str, load: Callable[[], Any]) -> None:
        try:
            load()
        except (Exception, SystemExit) as error:  # A plugin can fail in any way, and none may stop the others.
            message = f"{what} failed: {type(error).__name__}: {error}"
            self.plugin_problems.append(Diagnostic("LK401", message, severity=WARNING))


registry = Registry(catalogue.rows, has_plugins=True)


def register_loss(
    name: str,
    feature_types: str | Sequence[str] | None = None,
    *,
    schema: type[BaseLossConfig] | None = None,
    aliases: str | Sequence[str] = (),
    deprecated_aliases: str | Sequence[str] = (),
    registry: Registry = registry,
) -> Callable[[L], L]:
    """Registers the decorated `nn.Module` class, or function of predictions and targets, as a loss.

    Args:
        name: what configs call the loss.
        feature_types: the feature types that it is for, one or several; None for all.
        schema: its config class. Without it, the class's `get_schema_cls()` says which; without that, the config is
            read from the signature: each keyword with a default that YAML can hold becomes a setting.
        aliases: other names for the same loss.
        deprecated_aliases: names that it once had; they work with a warning, which `losskit validate --fix` heeds.
        registry: where to register it.

    Raises:
        RegistrationError: the name is taken, a feature type is unknown, the object is no module or function, or a
            setting has no default or no exact form in JSON Schema.

    The decorated class or function is returned unchanged.
    """
    types = tuple(FEATURE_TYPES if feature_types is None else check_feature_types(feature_types))
    aliases = (aliases,) if isinstance(aliases, str) else tuple(aliases)
    old = (deprecated_aliases,) if isinstance(deprecated_aliases, str) else tuple(deprecated_aliases)
    for word in (name, *aliases, *old):
        if not isinstance(word, str) or not word:
            raise RegistrationError(f"the name of a loss must be text, got {word!r}")

    def decorate(loss: L) -> L:
        entry = _entry(loss, name, types, (aliases, old), schema)
        registry.add(entry)
        config = entry.config.load()
        if "registered_name" not in vars(config):
            config.registered_name = name
        return loss

    return decorate


def get_loss_cls(feature_type: str, name: str) -> type[nn.Module]:
    """The module class of a loss, by name or alias; imports torch.

    Raises:
        UnknownLossError: there is no such loss for the feature type.
    """
    cls: type[nn.Module] = registry.get(name, feature_type).module.load()
    return cls


def get_loss_classes(feature_type: str) -> dict[str, type[nn.Module]]:
    """The module classes of all losses for a feature type, by name; imports torch."""
    return {name: get_loss_cls(feature_type, name) for name in registry.names(feature_type)}


def losses(feature_type: str | None = None) -> list[str]:
    """The names of all losses, or of those for a feature type, sorted."""
    return registry.names(feature_type)


def _entry(
    loss: Callable[..., Any],
    name: str,
    feature_types: tuple[str, ...],
    other_names: tuple[tuple[str, ...], tuple[str, ...]],
    config: Any,
) -> LossEntry:
    from losskit.schema import signature

    forward: Callable[..., Any] = getattr(loss, "forward", loss)
    is_class = inspect.isclass(loss)
    torch = sys.modules.get("torch")
    if inspect.isclass(loss) and not (torch and issubclass(loss, torch.nn.Module)):
        raise RegistrationError(f"{loss.__qualname__} is no torch.nn.Module, so it cannot be the loss {name!r}")
    if not is_class and not inspect.isfunction(loss):
        raise RegistrationError(f"the loss {name!r} must be an nn.Module class or a function, got {loss!r}")
    try:
        if config is None and hasattr(loss, "get_schema_cls"):
            config = loss.get_schema_cls()
        constructor = signature.read_constructor(loss, skip=0 if is_class else 2, config_cls=config)
        left_out = constructor.left_out
        if config is None:
            config = signature.config_from(constructor, name)
        else:
            left_out = ()
            signature.check_config(config, constructor, name)
        inputs, targets = signature.roles(loss, forward, skip=1 if is_class else 0)
        optional_inputs, optional_targets = signature.optional_roles(loss, forward)
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"cannot register {loss.__qualname__} as {name!r}: {error}") from None
    entry = LossEntry(
        name=name,
        feature_types=feature_types,
        aliases=other_names[0],
        inputs=inputs,
        targets=targets,
        summary=signature.summary(loss),
        has_rules=config.has_rules(),
        config=Reference(f"{config.__module__}:{config.__qualname__}", config),
        module=Reference(f"{loss.__module__}:{loss.__qualname__}", loss),
        optional_inputs=optional_inputs,
        optional_targets=optional_targets,
        left_out=left_out,
        deprecated_aliases=other_names[1],
    )
    if not entry.is_built_in:
        try:
            _ = entry.schema
        except TypeError as error:
            raise RegistrationError(f"cannot register {loss.__qualname__} as {name!r}: {error}") from None
    return entry


def check_feature_types(types: str | Iterable[str], error: type[Exception] = RegistrationError) -> list[str]:
    """`types` as a list; raises `error` where one of them is no feature type."""
    types = [types] if isinstance(types, str) else list(types)
    for feature_type in types:
        if feature_type not in FEATURE_TYPES:
            near = nearest(str(feature_type), FEATURE_TYPES)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(FEATURE_TYPES)}"
            raise error(f"no feature type {feature_type!r}; {hint}")
    if not types:
        raise error("a loss needs at least one feature type; None stands for all")
    return types


def _letters(name: str) -> str:
    """The letters of a name, however it joins its words, without `Loss` at its end."""
    return "".join(char for char in name.lower() if char not in "_- ").removesuffix("loss")


def _is_offered_anywhere() -> bool:
    """Whether an installed package has entry points for losses.

    Most often none has, and to ask importlib.metadata takes 40 ms, a third of a cold start.
    """
    for folder in map(Path, sys.path):
        with contextlib.suppress(OSError):  # such as a folder that is not there, or a zip file
            for info in folder.iterdir():
                if info.name.endswith("-info") and PLUGIN_GROUP in _entry_points_of(info):
                    return True
    return False


def _entry_points_of(info: Path) -> str:
    with contextlib.suppress(OSError):
        return (info / "entry_points.txt").read_text("utf-8", errors="replace")
    return ""


def settings_schema(
    definition: str | None,
    config: Reference,
    names: list[str],
    summary: str,
    roles: Sequence[str] = (),
    *,
    what: str = "loss",
) -> dict[str, Any]:
    """The JSON Schema of settings: from the definition in the generated file, or else written from the config class."""
    definitions = catalogue.definitions() if definition else {}
    if found := definitions.get(definition or ""):
        return _inlined(found, names, definitions, what)
    from losskit.schema.json_schema import loss_schema

    return loss_schema(config.load(), names, summary, roles)


# Keywords of settings in the schema of a whole config: what `inputs` may name is checked apart from settings.
_OF_DOCUMENTS = ("propertyNames", "doNotSuggest")


def _inlined(loss: dict[str, Any], names: list[str], definitions: dict[str, Any], what: str) -> dict[str, Any]:
    """The schema of a loss as the validator needs it: shared settings written out, `params` already taken apart.

    What the document's schema says only about the place of a loss is left out: the validator looks after it by itself.
    """
    properties = {}
    for name, schema in loss["properties"].items():
        if name != "params":
            reference = schema.get("$ref", "").removeprefix("#/definitions/")
            full = definitions[reference] if reference else schema
            properties[name] = {key: value for key, value in full.items() if key not in _OF_DOCUMENTS}
    properties["type"] = {"enum": names, "description": f"The name of the {what}."}
    return {**{key: value for key, value in loss.items() if key != "allOf"}, "properties": properties}
