"""Which strategies there are to balance the losses of several tasks: their names, configs and modules.

As with the losses, the built-in ones are read from the generated catalogue, without importing torch.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from losskit.diagnostics import listing
from losskit.registry import Reference, RegistrationError, registry, settings_schema
from losskit.schema import catalogue
from losskit.spelling import nearest

if TYPE_CHECKING:
    from losskit.schema.balancing import BaseBalancingConfig

# What papers and other libraries call them, where the letters do not lead to our name.
CALLED_ELSEWHERE = {
    **dict.fromkeys(("equal", "equal_weighting", "sum", "static", "null"), "none"),
    **dict.fromkeys(("uw", "uncertainty_weighting", "homoscedastic", "kendall"), "uncertainty"),
    **dict.fromkeys(("dynamic_weight_average", "dynamic_weight_averaging"), "dwa"),
    **dict.fromkeys(("gradient_normalization", "grad_normalization"), "gradnorm"),
    **dict.fromkeys(("gradient_surgery", "projecting_conflicting_gradients"), "pcgrad"),
    **dict.fromkeys(("chebyshev", "tchebycheff", "scalarization"), "pareto_mtl"),
    **dict.fromkeys(("log", "log1p", "db_mtl"), "log_transform"),
}

B = TypeVar("B", bound=type)


@dataclass(frozen=True, eq=False)
class StrategyEntry:
    """All that is known of a strategy without importing it."""

    name: str
    summary: str
    has_rules: bool
    config: Reference
    module: Reference
    # Parameters of the constructor that YAML cannot hold, and that a config therefore cannot set.
    left_out: tuple[str, ...] = ()

    @functools.cached_property
    def is_built_in(self) -> bool:
        """Whether the generated files know it."""
        rows = catalogue.strategy_rows()
        return any(row["name"] == self.name and row["module"] == self.module.path for row in rows)

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the strategy's settings."""
        definition = f"strategy_{self.name}" if self.is_built_in else None
        return settings_schema(definition, self.config, [self.name], self.summary, what="strategy")


class Strategies:
    """Strategies by name. There is one such registry, `losskit.strategies.strategies`; others are for tests."""

    def __init__(
        self, rows: Callable[[], Iterable[dict[str, Any]]] = list, *, load_plugins: Callable[[], None] | None = None
    ) -> None:
        self._rows = rows
        self._entries: dict[str, StrategyEntry] | None = None
        # A plugin is a module that registers losses, strategies or both.
        self.load_plugins = load_plugins or (lambda: None)

    def entries(self) -> list[StrategyEntry]:
        """Every strategy, plugins included, sorted by name."""
        self.load_plugins()
        return sorted(self._all().values(), key=lambda entry: entry.name)

    def names(self) -> list[str]:
        """The names of all strategies, sorted."""
        return [entry.name for entry in self.entries()]

    def find(self, name: str) -> StrategyEntry | None:
        """The strategy of this name. Plugins are imported only if none of ours has it."""
        if name not in self._all():
            self.load_plugins()
        return self._all().get(name)

    def get(self, name: str) -> StrategyEntry:
        """The strategy of this name.

        Raises:
            KeyError: there is none.
        """
        entry = self.find(name)
        if entry is None:
            near = self.suggest(name)
            raise KeyError(f"no loss balancing named {name!r}" + (f"; did you mean {listing(near)}?" if near else ""))
        return entry

    def suggest(self, name: str) -> list[str]:
        """Names that look like `name`."""
        word = name.lower().replace("-", "_").replace(" ", "_")
        names = self.names()
        if word in CALLED_ELSEWHERE:
            return [CALLED_ELSEWHERE[word]]
        same = [known for known in names if known.replace("_", "") == word.replace("_", "")]
        return same or nearest(word, names)

    def add(self, entry: StrategyEntry) -> None:
        """Adds a strategy, or replaces the same class's earlier registration.

        Raises:
            RegistrationError: the name belongs to another strategy.
        """
        holder = self._all().get(entry.name)
        if holder and holder.module.path != entry.module.path:
            raise RegistrationError(
                f"the name {entry.name!r} of {entry.module.path} is taken by {holder.module.path}; choose another name"
            )
        self._all()[entry.name] = entry

    def _all(self) -> dict[str, StrategyEntry]:
        if self._entries is None:
            self._entries = {}
            for row in self._rows():
                references = {key: Reference(row[key]) for key in ("config", "module")}
                entry = StrategyEntry(**{**row, **references, "left_out": tuple(row["left_out"])})
                self._entries[entry.name] = entry
        return self._entries


strategies = Strategies(catalogue.strategy_rows, load_plugins=registry.load_plugins)


def register_loss_balancing(
    name: str, *, schema: type[BaseBalancingConfig] | None = None, registry: Strategies = strategies
) -> Callable[[B], B]:
    """Registers the decorated `LossBalancing` class, so that configs can name it as their `loss_balancing`.

    Args:
        name: what configs call it.
        schema: its config class. Without it, the class's `get_schema_cls()` says which; without that, the config is
            read from the constructor: each keyword with a default that YAML can hold becomes a setting.
        registry: where to register it.

    Raises:
        RegistrationError: the name is taken, the class is no `LossBalancing` or lacks what it must take, or a setting
            has no default or no exact form in JSON Schema.

    The decorated class is returned unchanged.
    """
    if not isinstance(name, str) or not name:
        raise RegistrationError(f"the name of a loss balancing must be text, got {name!r}")

    def decorate(cls: B) -> B:
        entry = _entry(cls, name, schema)
        registry.add(entry)
        config = entry.config.load()
        if "registered_name" not in vars(config):
            config.registered_name = name
        return cls

    return decorate


def _entry(cls: Any, name: str, config: Any) -> StrategyEntry:
    from losskit.schema import signature
    from losskit.schema.balancing import BaseBalancingConfig

    # Whoever derives from it has imported it; here it would import torch.
    base = getattr(sys.modules.get("losskit.modules.balancing"), "LossBalancing", ())
    if not inspect.isclass(cls) or not issubclass(cls, base):
        what = getattr(cls, "__qualname__", repr(cls))
        raise RegistrationError(f"{what} is no subclass of losskit.modules.LossBalancing, so it cannot be {name!r}")
    try:
        _check_parameters(cls)
        if config is None and hasattr(cls, "get_schema_cls"):
            config = cls.get_schema_cls()
        constructor = signature.read_constructor(cls, 1, config, BaseBalancingConfig)
        left_out = constructor.left_out
        if config is None:
            config = signature.config_from(constructor, name, BaseBalancingConfig)
        else:
            left_out = ()
            signature.check_config(config, constructor, name, BaseBalancingConfig)
        entry = StrategyEntry(
            name=name,
            summary=signature.summary(cls),
            has_rules=config.has_rules(),
            config=Reference(f"{config.__module__}:{config.__qualname__}", config),
            module=Reference(f"{cls.__module__}:{cls.__qualname__}", cls),
            left_out=left_out,
        )
        if not entry.is_built_in:
            _ = entry.schema
    except (TypeError, ValueError) as error:
        raise RegistrationError(f"cannot register {cls.__qualname__} as {name!r}: {error}") from None
    return entry


def _check_parameters(cls: Any) -> None:
    """Whether the constructor and `forward` take what they are given.

    Raises:
        TypeError: one of them does not.
    """
    first = next(iter(inspect.signature(cls).parameters), None)
    if first != "num_tasks":
        raise TypeError(f"the first parameter of its constructor must be `num_tasks`, got {first or 'none'}")
    taken = list(inspect.signature(cls.forward).parameters)
    if taken[1:3] != ["losses", "weights"]:
        raise TypeError(f"`forward` must take `losses` and `weights` first, got {', '.join(taken[1:]) or 'nothing'}")
    if cls.needs_gradients and "gram" not in taken:
        raise TypeError("it needs gradients, but `forward` does not take `gram`")
