"""Where the losses of a criterion find what they take among the predictions and the targets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from losskit.constants import EVERYTHING, LOGITS, MMF_KEYS, TARGETS
from losskit.spelling import meant

if TYPE_CHECKING:
    from losskit.schema.schedules import Schedule


class Term(NamedTuple):
    """One loss of one feature, and where its inputs come from. `feature` is None for a loss without a feature."""

    feature: str | None
    name: str
    module: nn.Module
    inputs: Sequence[str] = (LOGITS,)
    targets: Sequence[str] = (TARGETS,)
    optional_inputs: Sequence[str] = ()
    optional_targets: Sequence[str] = ()
    weight: float | Schedule = 1.0
    renamed: Mapping[str, str] = {}
    # Whether targets that are NaN are missing labels, which do not count.
    missing: bool = False
    feature_type: str | None = None


class Given(NamedTuple):
    """What a loss is called with: its inputs, its targets, and what there is of its optional ones."""

    inputs: list[Any]
    targets: list[Any]
    optional: dict[str, Any]


class Lookup:
    """Finds what one loss takes.

    Its errors, which do not name the loss, are ValueErrors.
    """

    def __init__(self, term: Term) -> None:
        self.feature, self.feature_type = term.feature, term.feature_type
        self.inputs, self.targets = tuple(term.inputs), tuple(term.targets)
        self.optional_inputs, self.optional_targets = tuple(term.optional_inputs), tuple(term.optional_targets)
        self.renamed = dict(term.renamed)
        # What takes a tensor each from the predictions and the targets, as most losses do.
        self.is_plain = (
            len(self.inputs) == len(self.targets) == 1
            and EVERYTHING not in (*self.inputs, *self.targets)
            and not (self.optional_inputs or self.optional_targets or self.renamed)
        )

    def references(self, side: str) -> set[str]:
        """Features to which `inputs` may lead: all that stands before a dot."""
        roles = (
            (*self.inputs, *self.optional_inputs) if side == "predictions" else (*self.targets, *self.optional_targets)
        )
        names = [self.renamed.get(role, "").split(".") for role in roles]
        return {".".join(parts[:cut]) for parts in names for cut in range(1, len(parts))}

    def is_absent(self, predictions: Mapping[Any, Any], targets: Mapping[Any, Any]) -> bool:
        """Whether a batch says nothing about the feature: no labels, or for a loss without targets, no inputs."""
        if self.targets == (EVERYTHING,) or not self.targets:
            return self.is_absent_from(predictions)
        return targets.get(self.feature) is None and not self._is_led_elsewhere(self.targets)

    def is_absent_from(self, predictions: Mapping[Any, Any]) -> bool:
        """Whether there are no predictions for the loss."""
        return predictions.get(self.feature) is None and not self._is_led_elsewhere(self.inputs)

    def _is_led_elsewhere(self, roles: Sequence[str]) -> bool:
        return any("." in self.renamed.get(role, "") for role in roles)

    def find(self, predictions: Mapping[Any, Any], targets: Mapping[Any, Any]) -> Given:
        """All that the loss takes.

        Raises:
            ValueError: something is missing.
        """
        inputs = [self._input(role, predictions) for role in self.inputs]
        found = self.find_targets(targets)
        optional = found.optional
        for role in self.optional_inputs:
            if role in self.renamed or self._own(predictions.get(self.feature), role) is not None:
                optional[role] = self._input(role, predictions)
        return found._replace(inputs=inputs)

    def find_inputs(self, predictions: Mapping[Any, Any]) -> list[Any]:
        """What the loss takes from the predictions, but for what is optional."""
        return [self._input(role, predictions) for role in self.inputs]

    def find_targets(self, targets: Mapping[Any, Any]) -> Given:
        """What the loss takes from the targets.

        Raises:
            ValueError: something is missing.
        """
        optional = {}
        for name in self.optional_targets:
            given = targets.get(self.feature)
            value = given if isinstance(given, Tensor) and name == TARGETS else self._own(given, name)
            if name in self.renamed:
                value = self._renamed_target(name, targets)
            if value is not None:
                optional[name] = value
        return Given([], [self._target(name, targets) for name in self.targets], optional)

    def _input(self, role: str, predictions: Mapping[Any, Any]) -> Any:
        """What the predictions hold for a role."""
        given = predictions.get(self.feature)
        name = self.renamed.get(role, role)
        if role == EVERYTHING and given is not None:
            return given
        if role in self.renamed:
            found = self._look_up(name, predictions, LOGITS)
            if found is not None:
                return found
        elif isinstance(given, Mapping):
            found = self._own(given, role)
            if found is not None:
                return found
        elif given is not None and len(self.inputs) == 1:
            return given
        if given is None and role not in self.renamed:
            raise ValueError(f"the predictions{self._of('the feature ')} are missing")
        message = f"nothing fills its input {role!r}"
        if role in self.renamed:
            message += f" (`inputs` says {name!r})"
        message += f"; the predictions{self._of()} are {_contents(given)}"
        other, dot, _ = name.partition(".")
        if role in self.renamed and dot:
            message += f", and those of {other!r} are {_contents(predictions.get(other))}"
        raise ValueError(message)

    def _target(self, name: str, targets: Mapping[Any, Any]) -> Any:
        """What the targets hold under `name`."""
        given = targets.get(self.feature)
        if name == EVERYTHING:
            return {} if given is None else given
        if name in self.renamed:
            return self._renamed_target(name, targets)
        if given is None:
            raise ValueError(f"the targets{self._of('the feature ')} are missing")
        if isinstance(given, Mapping):
            found = self._own(given, name)
            if found is not None:
                return found
        elif len(self.targets) == 1:
            return given
        raise ValueError(f"nothing fills its target {name!r}; the targets{self._of()} are {_contents(given)}")

    def _renamed_target(self, name: str, targets: Mapping[Any, Any]) -> Any:
        """What the targets hold for a role of which `inputs` says where it is."""
        found = self._look_up(self.renamed[name], targets, TARGETS)
        if found is None:
            message = f"nothing fills its target {name!r} (`inputs` says {self.renamed[name]!r})"
            raise ValueError(f"{message}; the targets{self._of()} are {_contents(targets.get(self.feature))}")
        return found

    def _own(self, given: Any, role: str) -> Any:
        """What the feature's mapping holds for a role, in a list of losses without a feature also under MMF's name."""
        if isinstance(given, Mapping):
            for name in (role, *(MMF_KEYS.get(role, ()) if self.feature is None else ())):
                if name in given:
                    return given[name]
        return None

    def _look_up(self, name: str, found_in: Mapping[Any, Any], default_key: str) -> Any:
        """The key `name` of the feature, or `feature.key` of another, of which a lone tensor is the default key."""
        own = found_in.get(self.feature)
        if isinstance(own, Mapping) and name in own:
            return own[name]
        # The feature's own name may have dots too, so every way to cut is tried.
        parts = name.split(".")
        for cut in range(1, len(parts)):
            other, inner = found_in.get(".".join(parts[:cut])), ".".join(parts[cut:])
            if isinstance(other, Mapping) and inner in other:
                return other[inner]
            if isinstance(other, Tensor) and inner == default_key:
                return other
        return None

    def _of(self, noun: str = "") -> str:
        return "" if self.feature is None else f" of {noun}{self.feature!r}"


def _contents(given: Any) -> str:
    if given is None:
        return "missing"
    if isinstance(given, Mapping):
        return "a mapping with " + ", ".join(map(repr, given)) if given else "an empty mapping"
    return "a single tensor"


MASK, SAMPLE_WEIGHT = "mask", "sample_weight"
# What others call these.
_OTHER_NAMES = {
    **dict.fromkeys(("weight", "weights", "item_weight", "item_weights"), SAMPLE_WEIGHT),
    **dict.fromkeys(("attention_mask", "valid", "valid_mask"), MASK),
}


def misplaced_key(lookups: Sequence[Lookup], of_predictions: Iterable[str], of_targets: Collection[str]) -> str | None:
    """What is wrong with the keys of a feature: a slip in the name of something optional, or on the wrong side."""
    if any(EVERYTHING in (*lookup.inputs, *lookup.targets) for lookup in lookups):
        return None
    named = {name for lookup in lookups for name in lookup.renamed.values()}
    inputs = named.union(*((*lookup.inputs, *lookup.optional_inputs) for lookup in lookups))
    optional = {MASK, SAMPLE_WEIGHT}.union(*(lookup.optional_targets for lookup in lookups))
    known = named | optional.union(*(lookup.targets for lookup in lookups))
    for key in of_targets:
        if isinstance(key, str) and key not in known:
            near = _OTHER_NAMES.get(key) or meant(key, sorted(optional))
            if near and near not in of_targets:
                return f"nothing takes {key!r} of the targets; did you mean {near!r}?"
    for key in (MASK, SAMPLE_WEIGHT):
        if key in of_predictions and key not in inputs and key not in of_targets:
            return f"the predictions hold {key!r}, which is looked for in the targets"
    return None
