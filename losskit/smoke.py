"""Trains each loss of a config for a step on made-up data, so that `validates` and `runs` are one check."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from losskit.building import module_of, require_torch, term_of
from losskit.constants import EVERYTHING
from losskit.diagnostics import ERROR, Diagnostic, has_errors, in_order
from losskit.loss_checker import FoundLoss
from losskit.registry import LossEntry
from losskit.schema.base import BaseLossConfig, FeatureContext
from losskit.schema.schedules import schedule_of
from losskit.validation import FoundFeature, Validation

if TYPE_CHECKING:
    from torch import Tensor

    from losskit.modules.trial import Trial

_REMEMBERED = 256
# The sum compares the names of all losses with each other.
_TOGETHER = 200


def smoke_test(validation: Validation) -> list[Diagnostic]:
    """The losses that fail, or have no finite value and gradient; none where the config is wrong.

    Each loss is tried by itself, unweighted, and then as a part of the sum that `losskit.build` makes of the config.

    Raises:
        ImportError: torch is not installed.
    """
    require_torch("a smoke test")
    if has_errors(validation.diagnostics):
        return []
    problems: list[Diagnostic] = []
    parts: dict[_Part, FoundLoss] = {}
    for feature in validation.features:
        for found in feature.losses:
            try:
                part = _part(feature, found)
            except (Exception, SystemExit) as error:  # The config class may be a plugin's.
                problems.append(_problem(validation, found, _unbuilt(error)))
                continue
            finding = _trial(part.case).finding
            if finding is None:
                parts.setdefault(part, found)
            else:
                help = _help(found.entry, finding.tried)
                problems.append(_problem(validation, found, f"`{found.entry.name}` {finding.message}", help=help))
    losses = list(parts.values())
    for index, message, setting in _sum(tuple(parts)):
        problems.append(_problem(validation, losses[index], message, setting))
    # An alias can repeat a loss many times.
    return in_order(dict.fromkeys(problems))


def _problem(
    validation: Validation, found: FoundLoss, message: str, setting: str = "type", help: str | None = None
) -> Diagnostic:
    path = found.paths.get(setting, found.paths["type"])
    return validation.document.diagnose("LK501", path, message, help=help)


def _unbuilt(error: BaseException) -> str:
    from losskit.modules.trial import told

    return f"the loss cannot be built: {told(error)}"


def _help(entry: LossEntry, tried: str) -> str | None:
    parts = [f"it was called with {tried}"] if tried else []
    if not entry.is_built_in:
        parts.append("if it needs other tensors, give its class a static method `example_batch`")
    return "; ".join(parts) or None


# One loss


@dataclasses.dataclass(frozen=True)
class _Case:
    """All that the trial of a loss depends on."""

    entry: LossEntry
    context: FeatureContext
    settings: str
    named: tuple[str, ...]  # optional inputs for which the config says where they are
    config: BaseLossConfig = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A loss as a part of the sum."""

    feature: str | None
    case: _Case
    name: str | None
    weight: float
    inputs: tuple[tuple[str, str], ...]
    config: BaseLossConfig = dataclasses.field(compare=False)


def _part(feature: FoundFeature, found: FoundLoss) -> _Part:
    entry, config = found.entry, found.load()
    config, context = _of_bearable_size(config, feature.context)
    optional = (*entry.optional_inputs, *entry.optional_targets)
    named = tuple(role for role in optional if role in config.inputs)
    case = _Case(entry, context, repr(config.settings(context)), named, config)
    weight = schedule_of(config.weight).largest if isinstance(config.weight, dict) else config.weight
    return _Part(feature.name, case, config.name, weight, tuple(config.inputs.items()), config)


def _of_bearable_size(config: BaseLossConfig, context: FeatureContext) -> tuple[BaseLossConfig, FeatureContext]:
    """The config with fewer classes and a narrower layer, where it asks for more than a test should take."""
    from losskit.modules.trial import MAX_CLASSES, MAX_LAYER

    if (context.num_classes or 0) > MAX_CLASSES:
        context = dataclasses.replace(context, num_classes=MAX_CLASSES)
    sizes: dict[str, Any] = {}
    for name, most in (("num_classes", MAX_CLASSES), ("in_features", MAX_LAYER)):
        value = config.settings(context).get(name)
        if isinstance(value, int):
            sizes[name] = min(value, most)
    if len(sizes) == 2 and sizes["in_features"] * sizes["num_classes"] > MAX_LAYER:
        sizes["in_features"] = max(1, MAX_LAYER // sizes["num_classes"])
    changes = {name: size for name, size in sizes.items() if getattr(config, name, None) not in (None, size)}
    if not changes:
        return config, context
    smaller = dataclasses.replace(config, **changes)
    # A layer whose parts shrink from one to the next may need its width.
    fits = not any(problem.severity == ERROR for problem in smaller.problems(context))
    return (smaller if fits else config), context


@functools.lru_cache(maxsize=_REMEMBERED)
def _trial(case: _Case) -> Trial:
    from losskit.modules.trial import Finding, Trial, isolated, told, try_loss

    with isolated():
        try:
            module = module_of(case.config, case.context, case.entry)
        except (Exception, SystemExit) as error:
            return Trial(Finding(f"cannot be built: {told(error)}"))
        return try_loss(case.entry, module, case.config.settings(case.context), case.context, case.named)


# All losses together

# The side, the feature and the key under which the sum looks for a tensor.
_Slot = tuple[str, str | None, str]


@functools.lru_cache(maxsize=_REMEMBERED)
def _sum(parts: tuple[_Part, ...]) -> list[tuple[int, str, str]]:
    """What is wrong with the sum of losses, each of which trains by itself: the index of one, why, and its setting.

    Losses that share a key of the predictions, and were tried with tensors of different shapes, are added up apart:
    nobody knows which shape the model's will have.
    """
    from losskit.modules.trial import isolated

    features = {part.feature for part in parts}
    groups: list[_Group] = []
    for index, part in enumerate(parts):
        if any(role not in _trial(part.case).options for role in part.case.named):
            continue  # nobody knows what the inputs of a plugin's loss look like
        slots = _slots(part, features)
        group = next((group for group in groups if group.takes(slots)), None)
        if group is None:
            group = _Group([], [], [], {})
            groups.append(group)
        group.add(index, part, slots)
    with isolated():
        return [found for group in groups for found in group.problems()]


@dataclasses.dataclass
class _Group:
    """Losses that are added up, with where each of them looks for what, and all of that together."""

    indices: list[int]
    parts: list[_Part]
    slots: list[dict[_Slot, Any]]
    shared: dict[_Slot, Any]

    def takes(self, slots: Mapping[_Slot, Any]) -> bool:
        """Whether what another loss looks for is alike where it is in the same place."""
        return len(self.parts) < _TOGETHER and _agree(self.shared, slots)

    def add(self, index: int, part: _Part, slots: dict[_Slot, Any]) -> None:
        """Adds a loss; where it shares a key, it gets what was made up for those before it."""
        self.indices.append(index)
        self.parts.append(part)
        self.slots.append(slots)
        self.shared = {**slots, **self.shared}

    def problems(self) -> list[tuple[int, str, str]]:
        """The losses that fail as a part of the sum alone; if there are none, the first that fails beside others."""
        if _wrong_sum(self.parts, self.shared) is None:
            return []
        alone = [
            (index, *wrong)
            for index, part, slots in zip(self.indices, self.parts, self.slots, strict=True)
            if (wrong := _wrong_sum([part], slots))
        ]
        # It may be the fault of what was made up for one and does not suit another, such as labels of -1.
        choices = ({**self.shared, **slots} for slots in self.slots)
        if alone or any(_wrong_sum(self.parts, choice) is None for choice in choices):
            return alone
        ends = range(2, len(self.parts) + 1)
        found = ((end, _wrong_sum(self.parts[:end], self.shared)) for end in ends)
        return next(([(self.indices[end - 1], *wrong)] for end, wrong in found if wrong), [])


def _slots(part: _Part, features: set[str | None]) -> dict[_Slot, Any]:
    """Where the sum looks for what a loss was tried with."""
    entry, trial, renamed = part.case.entry, _trial(part.case), dict(part.inputs)
    assert trial.batch
    options = trial.options
    predictions = [*zip(entry.inputs, trial.batch.inputs, strict=False)]
    predictions += [(role, options[role]) for role in entry.optional_inputs if role in options]
    targets = [*zip(entry.targets, trial.batch.targets, strict=False)]
    targets += [(role, options[role]) for role in entry.optional_targets if role in options]
    slots: dict[_Slot, Any] = {}
    for side, values in (("predictions", predictions), ("targets", targets)):
        for role, value in values:
            feature, key = part.feature, renamed.get(role, role)
            if role in renamed and "." in key and feature is not None:
                feature, key = _reference(key, features)
            slots[side, feature, key] = value
    return slots


def _reference(name: str, features: set[str | None]) -> tuple[str, str]:
    """The feature and the key that `feature.key` means; both may have dots."""
    pieces = name.split(".")
    ways = [(".".join(pieces[:cut]), ".".join(pieces[cut:])) for cut in range(1, len(pieces))]
    return next((way for way in ways if way[0] in features), ways[0])


def _agree(taken: Mapping[_Slot, Any], slots: Mapping[_Slot, Any]) -> bool:
    """Whether what stands in both is alike. A loss that takes everything of a feature shares it with none."""
    owned = {slot[:2] for group in (taken, slots) for slot in group if slot[2] == EVERYTHING}
    if any(slot[:2] in owned for slot in taken) and any(slot[:2] in owned for slot in slots):
        return False
    return all(_kind(taken[slot]) == _kind(value) for slot, value in slots.items() if slot in taken)


def _kind(value: Any) -> tuple[Any, Any]:
    return getattr(value, "dtype", type(value)), getattr(value, "shape", None)


def _wrong_sum(parts: Sequence[_Part], slots: Mapping[_Slot, Any]) -> tuple[str, str] | None:
    """What is wrong with a sum, as it is told of its last loss, and which setting says so."""
    import torch

    from losskit.modules.batches import changed, leaf, tensors_of
    from losskit.modules.multi_task import MultiTaskLoss
    from losskit.modules.trial import told

    name = f"`{parts[-1].case.entry.name}`"
    try:
        terms = []
        for part in parts:
            entry, config = part.case.entry, part.config
            term = term_of(entry, config, part.feature, module_of(config, part.case.context, entry))
            # A weight that changes is tried where it is largest.
            terms.append(term._replace(weight=part.weight))
        given: dict[str, dict[str | None, Any]] = {"predictions": {}, "targets": {}}
        leaves: list[Tensor] = []
        for (side, feature, key), made_up in slots.items():
            value = made_up
            if side == "predictions":
                value = changed(value, leaf)
                leaves += (x for x in tensors_of(value) if x.requires_grad)
            value = changed(value, torch.clone)
            if key == EVERYTHING:
                given[side][feature] = value
            else:
                given[side].setdefault(feature, {})[key] = value
        is_bare = all(part.feature is None for part in parts)
        predictions, targets = (
            side.get(None) if is_bare else side for side in (given["predictions"], given["targets"])
        )
        total, values = MultiTaskLoss(terms)(predictions, targets)
        gradients = torch.autograd.grad(total, leaves, allow_unused=True) if leaves else ()
    except (Exception, SystemExit) as error:
        return f"{name} fails as a part of the sum: {told(error)}", "type"
    for value in values.values():
        if not torch.isfinite(value):
            return f"{name} is {value.item()} as a part of the sum", "type"
    for what, found in (("value", [total]), ("gradient", gradients)):
        if not all(torch.isfinite(tensor).all() for tensor in found if tensor is not None):
            return f"the weight of {name}, {parts[-1].weight:g}, makes its {what} infinite", "weight"
    return None
