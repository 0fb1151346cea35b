"""Checks what a config says about how its losses are balanced."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from losskit.config import Path
from losskit.constants import BALANCING_KEY
from losskit.diagnostics import INTERPOLATION_HELP, cut, is_interpolation, show
from losskit.spelling import meant, nearest
from losskit.strategies import Strategies, StrategyEntry
from losskit.strategies import strategies as all_strategies

if TYPE_CHECKING:
    from losskit.loss_checker import LossChecker
    from losskit.schema.balancing import BaseBalancingConfig


class FoundStrategy(NamedTuple):
    """A strategy of the config that is known: what it says, and where each key stands."""

    entry: StrategyEntry
    values: dict[str, Any]
    paths: dict[str, Path]

    def load(self) -> BaseBalancingConfig:
        """The typed form of what the schema has accepted."""
        config: BaseBalancingConfig = self.entry.config.load().schema().load(self.values)
        return config


def check_balancing(
    checker: LossChecker, strategies: Strategies | None, balancing: Any, path: Path, num_losses: int | None
) -> FoundStrategy | None:
    """The strategy that stands at `path`: a name or a mapping. What is wrong is told to `checker`."""
    strategies = strategies or all_strategies
    names = f"strategies: {', '.join(strategies.names())}"
    if isinstance(balancing, str):
        values, paths = {"type": balancing}, {"type": path}
    elif isinstance(balancing, dict):
        values = dict(balancing)
        paths = {key: (*path, key) for key in values}
    else:
        message = f"`{BALANCING_KEY}` must be a name or a mapping with `type`, got {show(balancing)}"
        checker.report("LK101", path, message, help=names)
        return None
    if "type" not in values:
        _report_missing_type(checker, strategies, values, path, names)
        return None
    entry = _entry(checker, strategies, values["type"], paths["type"], names)
    if entry is None:
        return None
    if "params" in values and "params" not in entry.schema["properties"]:
        help = "write the settings beside `type`"
        checker.report("LK201", paths["params"], f"`{entry.name}` takes no `params`", on_key=True, help=help)
        return None
    checker.rename(entry, values, paths)
    found = FoundStrategy(entry, values, paths)
    wrong = checker.check_settings(found)
    # Where settings are wrong, rules across them would judge by defaults in place of what was meant.
    if entry.has_rules and not wrong:
        checker.report_rules(found, entry.config.load()(**values).problems(num_losses))
    return found


def _report_missing_type(
    checker: LossChecker, strategies: Strategies, values: dict[str, Any], path: Path, names: str
) -> None:
    near = nearest("type", itertools.islice(values, 100), cutoff=0.7)
    if near:
        message = f"`{BALANCING_KEY}` has no `type`, but `{cut(near[0])}`"
        cure = "type" if len(near) == 1 else None
        checker.report("LK102", (*path, near[0]), message, on_key=True, suggestion="type", help=names, cure=cure)
    elif len(values) == 1 and strategies.find(next(iter(values))):
        help = f"write {{type: {cut(next(iter(values)))}, …}}, with the settings beside `type`"
        checker.report("LK102", path, f"`{BALANCING_KEY}` has no `type`", help=help)
    else:
        checker.report("LK102", path, f"`{BALANCING_KEY}` has no `type`", help=names)


def _entry(checker: LossChecker, strategies: Strategies, kind: Any, path: Path, names: str) -> StrategyEntry | None:
    if not isinstance(kind, str):
        checker.report("LK202", path, f"`type` must be the name of a strategy, got {show(kind)}", help=names)
        return None
    entry = strategies.find(kind)
    if entry is None:
        near = strategies.suggest(kind)
        cure = meant(kind, strategies.names())
        suggestion = cure or (near[0] if near else None)
        help = INTERPOLATION_HELP if is_interpolation(kind) else names
        checker.report(
            "LK109", path, f"no loss balancing named {show(kind)}", suggestion=suggestion, help=help, cure=cure
        )
    return entry
