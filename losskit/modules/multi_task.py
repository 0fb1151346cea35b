"""The weighted sum of the losses of all features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from losskit.constants import EVERYTHING, LOGITS, MMF_KEYS, TARGETS
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
    # Whether targets that are NaN are missing labels.
    missing: bool = False


class LossOutput(NamedTuple):
    """`total` is the weighted sum, to call `.backward()` on; `parts` has each loss, unweighted and detached."""

    total: Tensor
    parts: dict[str, Tensor]


class MultiTaskLoss(nn.Module):
    """The weighted sum of several losses of several features; `losskit.build` makes it from a config.

    >>> criterion = losskit.build(text="output_features: [{name: price, type: number, loss: huber}]")
    >>> total, parts = criterion({"price": torch.tensor([3.0])}, {"price": torch.tensor([1.0])})
    >>> total, parts
    (tensor(1.5000), {'price/huber': tensor(1.5000)})
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        super().__init__()
        # A list, for ModuleDict refuses names such as "type" or "a.b".
        self.losses = nn.ModuleList(term.module for term in terms)
        self.keys = _distinct([term.name if term.feature is None else f"{term.feature}/{term.name}" for term in terms])
        self._terms = [term._replace(module=None) for term in terms]  # type: ignore[arg-type]
        self._features = list(dict.fromkeys(term.feature for term in terms))
        self._references = {
            "predictions": [key for t in terms for key in _references(t, (*t.inputs, *t.optional_inputs))],
            "targets": [key for t in terms for key in _references(t, (*t.targets, *t.optional_targets))],
        }

    def forward(self, predictions: Any, targets: Any = None) -> LossOutput:
        """Computes all losses.

        Args:
            predictions: for each feature a tensor, or a mapping from which the loss takes its inputs (`logits` unless
                it says otherwise). Where the config is a list of losses without a feature, such a tensor or mapping
                itself, in which MMF's names, such as `scores`, will do.
            targets: likewise; a feature may be missing whose losses take no targets.

        Raises:
            ValueError: a feature, or an input of a loss, is missing; there is a feature that the config does not have;
                or a loss refuses its inputs.
            TypeError: predictions or targets are no mapping, or a loss refuses the dtype of its inputs.
        """
        if self._features == [None]:
            predictions, targets = {None: predictions}, {None: targets}
        else:
            targets = {} if targets is None else targets
            self._check_features("predictions", predictions)
            self._check_features("targets", targets)
        total: Tensor | None = None
        parts: dict[str, Tensor] = {}
        for term, key, loss in zip(self._terms, self.keys, self.losses, strict=True):
            inputs = [_input(term, key, role, predictions) for role in term.inputs]
            inputs += [_target(term, key, name, targets) for name in term.targets]
            value = _called(key, loss, inputs, _optional(term, key, predictions, targets))
            if isinstance(value, Mapping) and value:
                for name, part in value.items():
                    parts[f"{key}/{name}"] = _scalar(f"{key}/{name}", part).detach()
                value = sum(value.values())
            else:
                parts[key] = _scalar(key, value).detach()
            weighted = value if term.weight == 1 else term.weight * value
            total = weighted if total is None else total + weighted
        return LossOutput(torch.zeros(()) if total is None else total, parts)

    def _check_features(self, what: str, given: Any) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"{what} must be a mapping from feature to tensor, got {type(given).__name__}")
        for feature in given:
            is_referred_to = any(key.startswith(f"{feature}.") for key in self._references[what])
            if feature not in self._features and not is_referred_to:
                names = ", ".join(repr(name) for name in self._features)
                raise ValueError(f"{what} hold {feature!r}, but the features of the config are {names}")

    def extra_repr(self) -> str:
        return "\n".join(
            f"({i}): {key}, weight {t.weight:g}" for i, (key, t) in enumerate(zip(self.keys, self._terms, strict=True))
        )


def _references(term: Term, roles: Sequence[str]) -> list[str]:
    """What `inputs` says of these roles, where it leads to another feature."""
    return [term.renamed[role] for role in roles if "." in term.renamed.get(role, "")]


def _input(term: Term, key: str, role: str, predictions: Mapping[Any, Any]) -> Any:
    """What the predictions hold for a role of a loss."""
    given = predictions.get(term.feature)
    name = term.renamed.get(role, role)
    if role == EVERYTHING and given is not None:
        return given
    if role in term.renamed:
        found = _look_up(term, name, predictions, LOGITS)
        if found is not None:
            return found
    elif isinstance(given, Mapping):
        found = _own(term, given, role)
        if found is not None:
            return found
    elif given is not None and len(term.inputs) == 1:
        return given
    if given is None and role not in term.renamed:
        raise ValueError(f"{key}: the predictions{_of(term.feature, 'the feature ')} are missing")
    message = f"{key}: nothing fills its input {role!r}"
    if role in term.renamed:
        message += f" (`inputs` says {name!r})"
    message += f"; the predictions{_of(term.feature)} are {_contents(given)}"
    other, dot, _ = name.partition(".")
    if role in term.renamed and dot:
        message += f", and those of {other!r} are {_contents(predictions.get(other))}"
    raise ValueError(message)


def _own(term: Term, given: Any, role: str) -> Any:
    """What the feature's mapping holds for a role, in a list of losses without a feature also under MMF's name."""
    if isinstance(given, Mapping):
        for name in (role, *(MMF_KEYS.get(role, ()) if term.feature is None else ())):
            if name in given:
                return given[name]
    return None


def _look_up(term: Term, name: str, found_in: Mapping[Any, Any], default_key: str) -> Any:
    """The key `name` of the feature, or `feature.key` of another, of which a lone tensor is the default key."""
    own = found_in.get(term.feature)
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


def _target(term: Term, key: str, name: str, targets: Mapping[Any, Any]) -> Any:
    """What the targets hold for a loss under `name`."""
    given = targets.get(term.feature)
    if name == EVERYTHING:
        return {} if given is None else given
    if name in term.renamed:
        return _renamed_target(term, key, name, targets)
    if given is None:
        raise ValueError(f"{key}: the targets{_of(term.feature, 'the feature ')} are missing")
    if isinstance(given, Mapping):
        found = _own(term, given, name)
        if found is not None:
            return found
    elif len(term.targets) == 1:
        return given
    raise ValueError(f"{key}: nothing fills its target {name!r}; the targets{_of(term.feature)} are {_contents(given)}")


def _renamed_target(term: Term, key: str, name: str, targets: Mapping[Any, Any]) -> Any:
    """What the targets hold for a role of which `inputs` says where it is."""
    found = _look_up(term, term.renamed[name], targets, TARGETS)
    if found is None:
        given = _contents(targets.get(term.feature))
        message = f"{key}: nothing fills its target {name!r} (`inputs` says {term.renamed[name]!r})"
        raise ValueError(f"{message}; the targets{_of(term.feature)} are {given}")
    return found


def _optional(term: Term, key: str, predictions: Mapping[Any, Any], targets: Mapping[Any, Any]) -> dict[str, Any]:
    """What there is of what the loss takes where it is there; what `inputs` names must be there."""
    found = {}
    for role in term.optional_inputs:
        if role in term.renamed or _own(term, predictions.get(term.feature), role) is not None:
            found[role] = _input(term, key, role, predictions)
    for name in term.optional_targets:
        given = targets.get(term.feature)
        value = given if isinstance(given, Tensor) and name == TARGETS else _own(term, given, name)
        if name in term.renamed:
            value = _renamed_target(term, key, name, targets)
        if value is not None:
            found[name] = value
    return found


def _of(feature: str | None, noun: str = "") -> str:
    return "" if feature is None else f" of {noun}{feature!r}"


def _called(key: str, loss: nn.Module, inputs: list[Any], optional: dict[str, Any]) -> Any:
    if torch.compiler.is_compiling():
        return loss(*inputs, **optional)
    try:
        return loss(*inputs, **optional)
    except (AttributeError, TypeError, ValueError, IndexError, RuntimeError) as error:
        if type(error) not in (AttributeError, TypeError, ValueError, IndexError, RuntimeError):
            raise  # such as running out of memory: what handles it looks at the type
        raise type(error)(f"{key}: {error}") from error


def _scalar(key: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.dim() != 0:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{key}: the loss returned {found}, but a scalar tensor is needed to minimise it")
    return value


def _contents(given: Any) -> str:
    if given is None:
        return "missing"
    return "a mapping with " + ", ".join(map(repr, given)) if isinstance(given, Mapping) else "a single tensor"


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number behind those that stand there already: `a`, `a_2`, `a_3`."""
    seen: dict[str, int] = {}
    distinct: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        key = name if seen[name] == 1 else f"{name}_{seen[name]}"
        while key in distinct or (key != name and key in names):
            seen[name] += 1
            key = f"{name}_{seen[name]}"
        distinct.append(key)
    return distinct
