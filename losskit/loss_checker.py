"""Checks what a config says about the losses of one feature: names, settings, inputs, and rules across settings."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from losskit.config import MAX_PROBLEMS, Document, Path, is_oddly_written, number_notation_warning
from losskit.constants import DEFAULT_LOSSES, MULTI, RESERVED, SCHEDULE_EXAMPLE
from losskit.diagnostics import INTERPOLATION_HELP, WARNING, Diagnostic, cut, is_interpolation, listing, show
from losskit.registry import LossEntry, Registry
from losskit.settings import fits, setting_errors
from losskit.spelling import meant, nearest, suggested

if TYPE_CHECKING:
    from losskit.balancing_checker import FoundStrategy
    from losskit.schema.base import BaseLossConfig, FeatureContext, Problem
    from losskit.strategies import StrategyEntry


# Of a long list of losses, so many are shown.
_LISTED = 5
# To look for what was meant takes time: so many misspelt names of losses have suggestions.
_MAX_MISSPELT = 200
# What one process registers, another one does not know: a worker of a cluster, or `losskit validate`.
_OWN_LOSSES = (
    "a loss of your own is known where its module is imported: by you, --plugin, LOSSKIT_PLUGINS or an entry point"
)


class TooManyProblemsError(Exception):
    """The config has more problems than anyone would read; it may be made to keep the checker busy."""


class FoundLoss(NamedTuple):
    """A loss of the config whose type is known: what it says, and where each key stands."""

    entry: LossEntry
    values: dict[str, Any]
    paths: dict[str, Path]

    def load(self) -> BaseLossConfig:
        """The typed form of a loss that the schema has accepted."""
        values = {**self.values, "type": self.entry.name}
        config: BaseLossConfig = self.entry.config.load().schema().load(values)
        return config


class LossChecker:
    """Checks losses one after the other; what is wrong goes to `problems`."""

    def __init__(self, document: Document, registry: Registry, problems: list[Diagnostic]) -> None:
        self.document = document
        self.registry = registry
        self.problems = problems
        # An alias can repeat a loss many thousand times; it is checked, and its problems told, once. By identities,
        # since to hash the classes of a feature for each of its losses takes long; the context is kept alive with them.
        self._checked: dict[tuple[int, int], tuple[FeatureContext, list[FoundLoss]]] = {}
        # Names that are right as they stand, for a context.
        self._right_names: dict[tuple[str, int], LossEntry] = {}
        # What each misspelt name of a loss looks like, and the one that it can stand for.
        self._misspelt: dict[tuple[str, str | None], tuple[list[str], str | None]] = {}
        self._names = functools.cache(registry.usual_names)
        # How many numbers have been found that are written in an odd way.
        self._notations = 0

    def check(self, losses: Any, path: Path, context: FeatureContext) -> list[FoundLoss]:
        """The losses that stand at `path`: a name, a mapping, or a list of both."""
        key = (id(losses), id(context))
        if isinstance(losses, (dict, list)) and key in self._checked:
            return self._checked[key][1]
        if isinstance(losses, list):
            found = self._check_list(losses, path, context)
        elif isinstance(losses, str):
            found = self._check_name(losses, path, context)
        else:
            found = list(self._check_one(losses, path, context))
        if isinstance(losses, (dict, list)):
            self._checked[key] = (context, found)
        return found

    def _check_name(self, name: str, path: Path, context: FeatureContext) -> list[FoundLoss]:
        """A bare name; where nothing was said about it before, nothing is to be said now."""
        entry = self._right_names.get((name, id(context)))
        if entry is not None:
            return [FoundLoss(entry, {"type": name}, {"type": path})]
        count = len(self.problems)
        found = list(self._check_one(name, path, context))
        if found and len(self.problems) == count:
            self._right_names[name, id(context)] = found[0].entry
        return found

    def _check_list(self, losses: list[Any], path: Path, context: FeatureContext) -> list[FoundLoss]:
        if not losses:
            self.report("LK101", path, "the list of losses is empty", help=self.names_help(context))
        found: list[FoundLoss] = []
        for index, loss in enumerate(losses):
            if isinstance(loss, list):
                found += self._check_one(loss, (*path, index), context)
            else:
                found += self.check(loss, (*path, index), context)
        seen: set[str] = set()
        for loss in found:
            name = loss.values.get("name")
            if isinstance(name, str):
                if name in seen:
                    message = f"the name {show(name)} is taken by an earlier loss of this feature"
                    self.report("LK106", loss.paths["name"], message)
                seen.add(name)
        return found

    def _check_one(self, loss: Any, path: Path, context: FeatureContext) -> Iterator[FoundLoss]:
        if isinstance(loss, str):
            values: dict[str, Any] = {"type": loss}
            paths: dict[str, Path] = {"type": path}
        elif isinstance(loss, dict) and loss.get("type") == MULTI and self.registry.find(MULTI) is None:
            yield from self._check_multi(loss, path, context)
            return
        elif isinstance(loss, dict):
            values, paths = self._flattened(loss, path)
        else:
            message = f"a loss must be a name or a mapping with `type`, got {show(loss)}"
            self.report("LK101", path, message, help=self.names_help(context))
            return
        if "type" not in values and path and path[-1] == "loss":
            self._take_default(values, paths, path, context)
        if "type" not in values:
            self._report_missing_type(loss, path, values, paths, context)
        entry = self._entry(values, paths, context) if "type" in values else None
        if entry is None:
            return
        if values["type"] in entry.deprecated_aliases:
            message = f"{show(values['type'])} is an old name of `{entry.name}` and will go away"
            self.report("LK301", paths["type"], message, severity=WARNING, suggestion=entry.name, cure=entry.name)
        fits = context.type is None or context.type in entry.feature_types
        if not fits:
            message = entry.misfit(show(values["type"]), str(context.type), self._names(context.type))
            self.report("LK105", paths["type"], message, help=self._how_to_list(context))
        self.rename(entry, values, paths)
        found = FoundLoss(entry, values, paths)
        wrong = self.check_settings(found)
        if entry.has_rules and fits:
            self._check_rules(found, context, wrong)
        yield found

    def _take_default(
        self, values: dict[str, Any], paths: dict[str, Path], path: Path, context: FeatureContext
    ) -> None:
        """Settings without a name are those of the feature type's default, as in Ludwig, if it has them all."""
        default = DEFAULT_LOSSES.get(context.type or "")
        entry = self.registry.find(default) if default else None
        if entry is not None and values.keys() <= entry.schema["properties"].keys():
            values["type"], paths["type"] = entry.name, path
            name = values.get("name")
            if isinstance(name, str) and self.registry.find(name) not in (None, entry):
                message = f"`name` only says what {entry.name} is called in the results; `type` names the loss"
                self.report("LK107", paths["name"], message, on_key=True, severity=WARNING, suggestion="type")

    def _check_multi(self, loss: dict[str, Any], path: Path, context: FeatureContext) -> list[FoundLoss]:
        for key in loss:
            if key not in ("type", "params"):
                message = f"`{MULTI}` has no setting `{cut(key)}`: it stands for the list of losses in its `params`"
                cure = f"give each of the losses its own `{cut(key)}`"
                self.report("LK201", (*path, key), message, on_key=True, help=cure)
        losses = loss.get("params")
        if not isinstance(losses, list):
            message = f"`params` of `{MULTI}` must be a list of losses"
            where = (*path, "params") if "params" in loss else path
            self.report("LK101", where, f"{message}, got {show(losses)}" if "params" in loss else message)
            return []
        return self.check(losses, (*path, "params"), context)

    def _report_missing_type(
        self, loss: dict[str, Any], path: Path, values: dict[str, Any], paths: dict[str, Path], context: FeatureContext
    ) -> None:
        """Says what stands in place of `type`, and takes a misspelt one for it so that the settings are checked."""
        near = nearest("type", itertools.islice(loss, 100), cutoff=0.7)
        glued = next((key for key in itertools.islice(loss, 100) if re.match(r"type[:=]\S", key)), None)
        if glued:
            name = re.split("[:=]", glued, maxsplit=1)[1]
            cure = f"type: {name}" if loss[glued] is None and re.fullmatch(r"[\w-]+", name) else None
            message, help = f"the loss has no `type`, but `{cut(glued)}`", f"write `type: {cut(name)}`, with a space"
            self.report("LK102", (*path, glued), message, on_key=True, help=help, cure=cure)
        elif len(loss) == 1 and self.registry.find(next(iter(loss))):
            (name,) = loss
            help = f"write {{type: {cut(name)}, …}}, with the settings beside `type`"
            self.report("LK102", path, "the loss has no `type`", help=help)
        elif near:
            message, where = f"the loss has no `type`, but `{cut(near[0])}`", (*path, near[0])
            names = self.names_help(context)
            cure = "type" if len(near) == 1 else None
            self.report("LK102", where, message, on_key=True, suggestion="type", help=names, cure=cure)
            if near[0] in values:
                values["type"], paths["type"] = values.pop(near[0]), paths.pop(near[0])
        else:
            self.report("LK102", path, "the loss has no `type`", help=self.names_help(context))

    def _entry(self, values: dict[str, Any], paths: dict[str, Path], context: FeatureContext) -> LossEntry | None:
        kind, where = values["type"], paths["type"]
        if not isinstance(kind, str):
            message = f"`type` must be the name of a loss, got {show(kind)}"
            self.report("LK202", where, message, help=self.names_help(context))
            return None
        entry = self.registry.find(kind)
        if entry is None:
            near, cure = self._spelling(kind, context.type)
            suggestion = cure or (near[0] if near else None)
            message, help = f"no loss named {show(kind)}", _notation_help(kind) or self.names_help(context)
            if cure is None and _notation_help(kind) is None:  # no slip of a letter, so it may be registered elsewhere
                help += f"; {_OWN_LOSSES}"
            if kind == MULTI:
                message, suggestion = f"`{MULTI}` is no loss, but a list of losses that stands in its `params`", None
                help = f"write {{type: {MULTI}, params: [...]}}, or the losses themselves"
            self.report("LK103", where, message, suggestion=suggestion, help=help, cure=suggestion and cure)
        return entry

    def _spelling(self, name: str, feature_type: str | None) -> tuple[list[str], str | None]:
        """What the name of a loss looks like, and the one loss that it can stand for."""
        key = (name, feature_type)
        if key not in self._misspelt:
            if len(self._misspelt) >= _MAX_MISSPELT:
                return [], None
            near = self.registry.suggest(*key)
            self._misspelt[key] = near, self.registry.meant(*key, near)
        return self._misspelt[key]

    def _flattened(self, loss: dict[str, Any], path: Path) -> tuple[dict[str, Any], dict[str, Path]]:
        """The loss with what stands under `params` beside the rest."""
        values = {key: value for key, value in loss.items() if key != "params"}
        paths: dict[str, Path] = {key: (*path, key) for key in values}
        params = loss.get("params", {})
        if not isinstance(params, dict):
            if params is not None:
                self.report("LK202", (*path, "params"), f"`params` must be a mapping of settings, got {show(params)}")
            return values, paths
        for key, value in params.items():
            where = (*path, "params", key)
            if key in values:
                self.report("LK002", where, f"`{cut(key)}` stands both in `params` and beside it", on_key=True)
            elif key in RESERVED:
                cure = "put it beside `params`, not into it"
                if key == "weight" and isinstance(value, (dict, list)) and "schedule" not in value:
                    cure = "weights of classes are `class_weights`"
                self.report("LK201", where, f"`{key}` is no setting: {cure}", on_key=True)
            else:
                values[key], paths[key] = value, where
        return values, paths

    def rename(self, entry: LossEntry | StrategyEntry, values: dict[str, Any], paths: dict[str, Path]) -> None:
        """Takes settings by their old names for what they are called now."""
        properties = entry.schema["properties"]
        for old in [key for key in values if properties.get(key, {}).get("deprecated")]:
            new = entry.config.load().renamed_settings[old]
            message, cure = f"`{cut(old)}` is the old name of `{new}` and will go away", new
            if new in values:
                self.report("LK002", paths[old], f"`{cut(old)}` and `{new}` are the same setting", on_key=True)
                del values[old], paths[old]
                continue
            self.report("LK301", paths[old], message, on_key=True, severity=WARNING, suggestion=new, cure=cure)
            values[new], paths[new] = values.pop(old), paths.pop(old)

    def check_settings(self, found: FoundLoss | FoundStrategy) -> set[str]:
        """Reports what is wrong with each setting; returns which are."""
        entry, values, paths = found
        properties = entry.schema["properties"]
        lasting = [name for name, schema in properties.items() if not schema.get("deprecated")]
        settings = [name for name in lasting if name not in ("type", "name", "inputs")]
        wrong = set(values.keys() - properties.keys())
        for key in values:
            if key in wrong:
                # `weight` is no weight of classes. What takes the value is more likely than what does not.
                names = [name for name in lasting if name != "weight" or "class" not in key]
                fitting = [name for name in names if fits(values[key], entry, name)]
                suggestion, cure = suggested(key, fitting, taken=values)
                suggestion = suggestion or suggested(key, names)[0]
                suggestion, cure = self._params_meant(key, values[key]) or (suggestion, cure)
                listed = ", ".join(settings)
                help: str | None = f"settings of `{entry.name}`: {listed}" if listed else f"`{entry.name}` has none"
                message = f"`{entry.name}` has no setting `{cut(key)}`"
                if key in entry.left_out:
                    message += " in a config"
                self.report("LK201", paths[key], message, on_key=True, suggestion=suggestion, help=help, cure=cure)
        for error in setting_errors(entry, values):
            wrong.add(error.setting)
            where = (*paths[error.setting], *error.steps)
            help = error.help
            is_no_weight = error.setting == "weight" and error.code == "LK202" and not error.steps
            if is_no_weight and isinstance(values["weight"], (dict, list)):
                of_classes = "class_weights" in properties
                help = "weights of classes are `class_weights`" if of_classes else f"a schedule is {SCHEDULE_EXAMPLE}"
            self.report(
                error.code,
                where,
                error.message,
                on_key=error.on_key,
                suggestion=error.suggestion,
                help=help,
                cure=error.cure,
                keeps_quotes=error.suggestion is not None,
            )
        for key, value in values.items():
            self._warn_of_notation(value, paths[key])
        if isinstance(found, FoundLoss):
            if isinstance(values.get("inputs"), dict):
                self._check_roles(found)
            if isinstance(values.get("weight"), dict) and "weight" not in wrong:
                self._check_schedule(found)
        return wrong

    def _params_meant(self, key: str, value: Any) -> tuple[str, str | None] | None:
        """Whether a key is `params`, misspelt, and what holds for it."""
        is_meant = isinstance(value, dict) and (meant(key, ("params",)) or key.lower() == "parameters")
        return ("params", "params") if is_meant else None

    def _check_roles(self, found: FoundLoss) -> None:
        entry = found.entry
        known = (*entry.inputs, *entry.optional_inputs, *entry.targets, *entry.optional_targets)
        for role in found.values["inputs"]:
            if role not in known:
                suggestion, cure = suggested(role, known, taken=found.values["inputs"])
                message = f"`{entry.name}` takes no input `{cut(role)}`"
                help = f"`{entry.name}` takes {', '.join(known)}"
                where = (*found.paths["inputs"], role)
                self.report("LK208", where, message, on_key=True, suggestion=suggestion, help=help, cure=cure)

    def _check_schedule(self, found: FoundLoss) -> None:
        """Reports what contradicts itself, or cannot act, in a weight that changes."""
        from losskit.schema.schedules import objections

        for objection in objections(found.values["weight"]):
            message = f"`weight.{objection.key}` of `{found.entry.name}` {objection.message}"
            where = (*found.paths["weight"], objection.key)
            self.report(objection.code, where, message, severity=objection.severity, help=objection.help)

    def _warn_of_notation(self, value: Any, path: Path) -> None:
        """Warns of numbers in the value of a setting that PyYAML's default reader takes for something else."""
        if isinstance(value, (dict, list)):
            places = self.document.events.get(id(value), ()) if id(value) in self.document.odd else ()
            # Settings are rows of numbers at most: deeper values are wrong, and reported already.
            items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
            for step, item in items:
                # Thousands of numbers may stand beside the one that is meant, so those are passed quickly.
                if isinstance(item, list) or (places and is_oddly_written(places[step])):
                    self._warn_of_notation(item, (*path, step))
        elif isinstance(value, (int, float)) and self._notations <= MAX_PROBLEMS:
            warning = number_notation_warning(self.document, path)
            self._notations += warning is not None
            if warning and self._notations > MAX_PROBLEMS:
                message = f"more than {MAX_PROBLEMS:,} numbers are written so; the others are not listed"
                warning = warning._replace(message=message, help=None, edits=())
            if warning:
                self.problems.append(warning)

    def _check_rules(self, found: FoundLoss, context: FeatureContext, wrong: set[str]) -> None:
        """Reports what the config's rules object to.

        Where some settings are wrong, only the rules on single settings are asked: those across settings would judge by
        defaults in place of what was meant.
        """
        from losskit.schema.base import BaseLossConfig

        cls = found.entry.config.load()
        config = cls(**{name: value for name, value in found.values.items() if name not in wrong})
        rules: Callable[..., Any] = BaseLossConfig.problems if wrong else cls.problems
        self.report_rules(found, (p for p in rules(config, context) if p.setting not in wrong))

    def report_rules(self, found: FoundLoss | FoundStrategy, problems: Iterable[Problem]) -> None:
        """Reports what rules across settings object to."""
        for problem in problems:
            path = (*found.paths.get(problem.setting, found.paths["type"]), *problem.steps)
            message = f"`{problem.setting}` of `{found.entry.name}` {problem.message}"
            self.report(
                problem.code,
                path,
                message,
                on_key=bool(problem.steps),
                severity=problem.severity,
                suggestion=problem.suggestion,
                help=problem.help,
                cure=problem.cure,
            )

    def names_help(self, context: FeatureContext) -> str:
        """Which losses there are for a feature."""
        where = f" for {context.type}" if context.type else ""
        names = self._names(context.type)
        if len(names) <= _LISTED:
            return f"losses{where}: {', '.join(names) or 'none yet'}"
        return f"losses{where}: {listing(names, _LISTED)} ({self._how_to_list(context)})"

    def _how_to_list(self, context: FeatureContext) -> str:
        option = f" --feature {context.type}" if context.type else ""
        return f"`losskit list{option}` shows all {len(self._names(context.type))}"

    def report(self, code: str, path: Path, message: str, **options: Any) -> None:
        """Adds a problem at the value of `path`, or at its key.

        Raises:
            TooManyProblemsError: nobody reads so many.
        """
        if len(self.problems) >= MAX_PROBLEMS:
            raise TooManyProblemsError
        self.problems.append(self.document.diagnose(code, path, message, **options))


def _notation_help(name: str) -> str | None:
    """The cure where what stands for a loss is more than its name."""
    if is_interpolation(name):
        return INTERPOLATION_HELP
    if call := re.fullmatch(r"(\w+)\((.*)\)", name):
        return f"settings stand beside `type`: {{type: {cut(call[1])}, {cut(call[2].replace('=', ': '))}}}"
    return f"several losses are a list: [{cut(name)}]" if "," in name else None
