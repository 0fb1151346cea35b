"""The weighted sum of the losses of all features."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import torch
from torch import Tensor, nn

from losskit.constants import EVERYTHING
from losskit.modules import checking, sharing
from losskit.modules.balancing import LossBalancing, balanced
from losskit.modules.base import AdditiveLoss
from losskit.modules.description import LastStep, description, kept
from losskit.modules.item_weights import ItemWeights, weighted, weighted_count, weights_of
from losskit.modules.lookup import MASK, SAMPLE_WEIGHT, Given, Term, misplaced_key
from losskit.modules.outcomes import divided, of_other_ranks, told_by_part
from losskit.modules.plan import MEAN, Plan, planned
from losskit.schema.base import keys_of

if TYPE_CHECKING:
    from typing_extensions import Self

_SIDES = ("predictions", "targets")
# After so many calls in training, or steps, something that has been forgotten is told.
_MANY_CALLS, _MANY_STEPS = 200, 20
# The errors that are told with the name of the loss. Others, such as running out of memory, stay as they are: what
# handles them looks at their type.
_TOLD = (AttributeError, TypeError, ValueError, IndexError, RuntimeError)


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

    num_steps: Tensor
    scheduled_weights: Tensor

    def __init__(self, terms: Sequence[Term], *, balancing: LossBalancing | None = None) -> None:
        super().__init__()
        # A list, for ModuleDict refuses names such as "type" or "a.b".
        self.losses = nn.ModuleList(term.module for term in terms)
        self.balancing = balancing
        self.keys = keys_of((term.feature, term.name) for term in terms)
        self._features = list(dict.fromkeys(term.feature for term in terms))
        self._schedules = [term.weight for term in terms if not isinstance(term.weight, (int, float))]
        self.num_steps_done = 0  # by the optimizer
        if self._schedules:
            # Saved as a tensor, for there are formats of checkpoints that hold nothing else.
            self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))
            self.register_buffer("scheduled_weights", torch.empty(len(self._schedules)), persistent=False)
            self._set_weights()
        self.plans = planned(terms, self.keys)
        self.shared: list[Tensor] | None = None
        self.last_step: LastStep | None = None
        # Whether there is anything that `step` changes, and how often it has been asked for a loss in training.
        self._moves_on = bool(self._schedules) or (
            balancing is not None and type(balancing).step is not LossBalancing.step
        )
        self.num_calls = 0
        self._keys_seen: set[Any] = set()
        self._is_bare = self._features == [None]
        self._known = [
            {*self._features}.union(*(plan.lookup.references(side) for plan in self.plans)) for side in _SIDES
        ]

    # One batch

    def forward(
        self,
        predictions: Any,
        targets: Any = None,
        normalizers: Mapping[str, Tensor | float] | None = None,
        *,
        shared: Tensor | Iterable[Tensor] | None = None,
    ) -> LossOutput:
        """Computes all losses.

        Args:
            predictions: for each feature a tensor, or a mapping from which the loss takes its inputs (`logits` unless
                it says otherwise). Where the config is a list of losses without a feature, such a tensor or mapping
                itself, in which MMF's names, such as `scores`, will do.
            targets: likewise. Beside the targets a mapping may hold a `mask`, which says which items count, and
                `sample_weight`, how much; their shape is that of the items, or of their first axes. A feature without
                targets contributes nothing, 0 among the parts, if its losses take any.
            normalizers: what to divide losses by in place of their own counts, by their keys in `parts`, such as the
                counts of a whole batch of which this is a part (see `losskit.distributed.counts`). What is a sum, or no
                mean over items, is divided by it too.
            shared: tensors that all tasks have in common, such as the output of the encoder, for balancing by
                gradients; without them, the parameters that were given to `share`.

        Raises:
            ValueError: an input of a loss is missing; there is a feature that the config does not have; or a loss
                refuses its inputs.
            TypeError: predictions or targets are no mapping, or a loss refuses the dtype of its inputs.
        """
        known = self._known
        if (
            self._is_bare
            or type(predictions) is not dict
            or type(targets) is not dict
            or not (predictions.keys() <= known[0] and targets.keys() <= known[1])
        ):
            predictions, targets = self.checked(predictions, targets)
        if normalizers is not None:
            self._check_normalizers(normalizers)
        is_plain = normalizers is None and not checking.debugging()
        values: list[Tensor] = []
        present: list[bool] = []
        parts: dict[str, Tensor] = {}
        plan: Plan | None = None
        try:
            # Not through `self.losses`, which takes a microsecond to find.
            losses: Any = self._modules["losses"]
            for plan, loss in zip(self.plans, losses._modules.values(), strict=True):
                prediction, target = predictions.get(plan.feature), targets.get(plan.feature)
                if plan.shares:
                    sharing.remember(plan.feature)
                if is_plain and plan.is_plain and isinstance(prediction, Tensor) and isinstance(target, Tensor):
                    value = loss(prediction, target)
                else:
                    value = self.value_of(plan, loss, predictions, targets, normalizers)
                present.append(value is not None)
                if isinstance(value, Tensor) and not value.ndim:
                    parts[plan.key] = value.detach()
                else:
                    value = told_by_part(plan.key, value, parts, prediction, loss)
                values.append(value)
        except _TOLD as error:
            if plan is None or type(error) not in _TOLD:
                raise
            raise type(error)(f"{plan.key}: {error}") from error
        finally:
            sharing.forget()
        self._remember(predictions, targets, normalizers, parts, present)
        return LossOutput(self._total(values, present, shared, normalizers), parts)

    def _remember(self, predictions: Any, targets: Any, *rest: Any) -> None:
        """Keeps what `describe` may be asked for, and tells of what has been forgotten."""
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return
        if self._moves_on and self.training and self.num_calls < _MANY_CALLS and torch.is_grad_enabled():
            self._warn_of_calls_without_a_step()
        # Not by the setter of modules, which takes a microsecond.
        self.__dict__["last_step"] = LastStep(kept(predictions), kept(targets), *rest)

    def _total(
        self,
        values: list[Tensor],
        present: list[bool],
        shared: Tensor | Iterable[Tensor] | None,
        normalizers: Mapping[str, Any] | None,
    ) -> Tensor:
        # A copy, for `step()` may come before the backward pass.
        scheduled = self.scheduled_weights.clone().unbind() if self._schedules else ()
        weights = [plan.weight if plan.schedule is None else scheduled[plan.schedule] for plan in self.plans]
        if self.balancing is not None and values:
            return balanced(
                self.balancing,
                values,
                weights,
                shared=self.shared if shared is None else [shared] if isinstance(shared, Tensor) else list(shared),
                present=present,
                share=getattr(normalizers, "share", 1.0),
                normalizers=None if normalizers is None else self._of_whole_batch(normalizers),
            )
        total: Any = None
        for value, weight in zip(values, weights, strict=True):
            weighed = value * weight if isinstance(weight, Tensor) or weight != 1 else value
            total = weighed if total is None else total + weighed
        return torch.zeros(()) if total is None else total

    def _of_whole_batch(self, normalizers: Mapping[str, Any]) -> list[Any]:
        """How much there is of each loss in the whole batch, where that is known."""
        least, totals = self.least_counts, getattr(normalizers, "totals", None) or normalizers
        return [None if least.get(key) else totals.get(key) for key in self.keys]

    def share(self, parameters: nn.Module | Tensor | Iterable[Tensor]) -> None:
        """Says which parameters all tasks have in common, for balancing by gradients.

        The last shared layer is often enough, and cheaper than all of them: each task's gradient for these is computed
        in every step. They stay the model's; the criterion neither saves nor optimizes them.

        Raises:
            TypeError: they are no tensors.
            ValueError: there are none, or none of them is trained.
        """
        if isinstance(parameters, nn.Module):
            parameters = parameters.parameters()
        shared = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        wrong = next((x for x in shared if not isinstance(x, Tensor)), None)
        if wrong is not None:
            raise TypeError(f"share takes a module or its parameters, got a {type(wrong).__name__} among them")
        if not any(x.requires_grad for x in shared):
            raise ValueError("share got no parameter that is trained" if shared else "share got no parameters")
        self.shared = shared

    def checked(self, predictions: Any, targets: Any) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
        """Predictions and targets by feature, which the config must have."""
        if self._is_bare:
            return {None: predictions}, {None: targets}
        if targets is None:
            plan = next((plan for plan in self.plans if plan.lookup.targets not in ((), (EVERYTHING,))), None)
            if plan is not None:
                raise ValueError(f"{plan.key}: the targets are missing")
            targets = {}
        for side, given, known in zip(_SIDES, (predictions, targets), self._known, strict=True):
            self._check_features(side, given, known)
        return predictions, targets

    def _check_features(self, side: str, given: Any, known: set[Any]) -> None:
        if not isinstance(given, Mapping):
            raise TypeError(f"{side} must be a mapping from feature to tensor, got {type(given).__name__}")
        if not given.keys() <= known:
            unknown = next(feature for feature in given if feature not in known)
            names = ", ".join(repr(name) for name in self._features)
            raise ValueError(f"{side} hold {unknown!r}, but the features of the config are {names}")

    def _check_normalizers(self, normalizers: Any) -> None:
        if not isinstance(normalizers, Mapping):
            raise TypeError(f"normalizers must be a mapping from loss to number, got {type(normalizers).__name__}")
        for key in normalizers:
            if key not in self.keys:
                raise ValueError(f"normalizers hold {key!r}, but the losses are {', '.join(map(repr, self.keys))}")

    def value_of(
        self,
        plan: Plan,
        loss: nn.Module,
        predictions: Mapping[Any, Any],
        targets: Mapping[Any, Any],
        normalizers: Mapping[str, Tensor | float] | None,
    ) -> Any:
        """What a loss returns; None for a feature that the batch says nothing about."""
        normalizer = None if normalizers is None else normalizers.get(plan.key)
        feature, lookup = plan.feature, plan.lookup
        prediction, target = predictions.get(feature), targets.get(feature)
        if feature is not None and not torch.compiler.is_compiling():
            self._check_keys(feature, prediction, target)
        if lookup.is_plain and feature is not None:  # found at once, as it most often is
            if type(prediction) is dict:
                prediction = prediction.get(lookup.inputs[0])
            if type(target) is dict and MASK not in target and SAMPLE_WEIGHT not in target:
                target = target.get(lookup.targets[0])
        if lookup.is_plain and isinstance(prediction, Tensor) and isinstance(target, Tensor):
            given, items = Given([prediction], [target], {}), None
        else:
            if feature is not None and lookup.is_absent(predictions, targets):
                value = of_other_ranks(prediction, loss, predictions)
                return value if normalizer is None or value is None else divided(value, normalizer)
            given, items = lookup.find(predictions, targets), weights_of(lookup, targets, plan.is_masked)
        if checking.debugging():
            with checking.called(loss, plan.key, lookup.inputs):
                checking.require_sound(loss, given.inputs, lookup.inputs)
                value = self._called(plan, loss, given, items, targets, normalizer)
                checking.require_sound_value(value, plan.key)
                return value
        return self._called(plan, loss, given, items, targets, normalizer)

    def _check_keys(self, feature: str, prediction: Any, target: Any) -> None:
        """Refuses keys that can only be slips, or stand on the wrong side; each set of keys once."""
        if not isinstance(prediction, Mapping) and not isinstance(target, Mapping):
            return
        found = tuple(frozenset(x) if isinstance(x, Mapping) else frozenset() for x in (prediction, target))
        if (feature, *found) in self._keys_seen:
            return
        lookups = [plan.lookup for plan in self.plans if plan.feature == feature]
        misplaced = misplaced_key(lookups, *found)
        if misplaced:
            raise ValueError(misplaced)
        self._keys_seen.add((feature, *found))

    def _called(
        self,
        plan: Plan,
        loss: nn.Module,
        given: Given,
        items: ItemWeights | None,
        targets: Mapping[Any, Any],
        normalizer: Tensor | float | None,
    ) -> Any:
        lookup = plan.lookup
        if plan.is_masked or (items is not None and not items.says_nothing):
            items = items or weights_of(lookup, targets, plan.is_masked)
            value = weighted(loss, lookup, given, items, normalizer if plan.kind == MEAN else None)
        elif normalizer is not None and plan.kind == MEAN:
            return loss(*given.inputs, *given.targets, **given.optional, normalizer=normalizer)
        else:
            value = loss(*given.inputs, *given.targets, **given.optional)
        return value if normalizer is None or plan.kind == MEAN else divided(value, normalizer)

    # Parts of a batch

    def counts(self, targets: Any, predictions: Any = None) -> dict[str, Tensor]:
        """What each loss that is a mean over items divides by for a batch, by its key in `parts`.

        Args:
            targets: as `forward` takes them.
            predictions: likewise; only losses without targets, such as triplet_margin, need them.

        Returns:
            One number for each loss that is a sum over a count, 0 where the batch says nothing about its feature.
            Counts of parts of a batch add up to that of the whole.

        Raises:
            TypeError: a count does not follow from what is given.
        """
        if self._is_bare:
            predictions, targets = {None: predictions}, {None: targets}
        has_predictions = predictions is not None
        predictions, targets = {} if predictions is None else predictions, {} if targets is None else targets
        if not self._is_bare:
            self._check_features("targets", targets, self._known[1])
        found = {}
        for plan, loss in zip(self.plans, self.losses, strict=True):
            if plan.kind != MEAN:
                continue
            try:
                found[plan.key] = self._count(plan, loss, predictions, targets, has_predictions)
            except _TOLD as error:
                raise type(error)(f"{plan.key}: {error}") from error
        return found

    def _count(
        self,
        plan: Plan,
        loss: Any,
        predictions: Mapping[Any, Any],
        targets: Mapping[Any, Any],
        has_predictions: bool,
    ) -> Tensor:
        lookup = plan.lookup
        if lookup.is_absent(predictions, targets) and targets.get(plan.feature) is None:
            if not lookup.targets and not has_predictions:
                raise TypeError("it takes no targets; its count needs the predictions, or a `mask` in the targets")
            return torch.zeros((), dtype=torch.long)
        given = lookup.find_targets(targets)
        if not lookup.is_absent_from(predictions):
            given = given._replace(inputs=lookup.find_inputs(predictions))
        items = weights_of(lookup, targets, plan.is_masked)
        if isinstance(loss, AdditiveLoss):
            return weighted_count(loss, lookup, given, items)
        count: Tensor = loss.count(*given.targets, **given.optional)
        return count

    @property
    def kinds(self) -> dict[str, str]:
        """What each loss does when a batch is cut into parts: `mean` over items, `sum`, or `neither`."""
        return {plan.key: plan.kind for plan in self.plans}

    @property
    def least_counts(self) -> dict[str, float]:
        """What each mean divides by at least."""
        pairs = zip(self.plans, self.losses, strict=True)
        return {plan.key: getattr(loss, "least_count", 0) for plan, loss in pairs if plan.kind == MEAN}

    # From step to step

    def step(self) -> None:
        """Tells the criterion that the optimizer has done a step, with which weights and balancing may change."""
        self.num_steps_done += 1
        if self.num_steps_done == _MANY_STEPS:
            self._warn_of_parameters_at_rest()
        if self._schedules:
            self.num_steps.fill_(self.num_steps_done)
            self._set_weights()
        if self.balancing is not None:
            self.balancing.step()

    def _warn_of_calls_without_a_step(self) -> None:
        """Called in training where there is something that `step` moves on."""
        self.__dict__["num_calls"] += 1
        if self.num_calls == _MANY_CALLS and not self.num_steps_done:
            what = "a schedule" if self._schedules else "balancing that changes"
            warnings.warn(
                f"the criterion has {what}, but in {_MANY_CALLS} calls criterion.step() has not been called: call it "
                "after optimizer.step()",
                stacklevel=4,
            )

    def _warn_of_parameters_at_rest(self) -> None:
        """Each change of a parameter counts up its version, and loading it has been the only one for those at rest."""
        for name, parameter in self.named_parameters():
            if parameter.grad is not None and parameter._version < _MANY_STEPS // 2:
                warnings.warn(
                    f"{name} of the criterion has a gradient but does not change: give criterion.parameters() to the "
                    "optimizer",
                    stacklevel=3,
                )
                return

    def _set_weights(self) -> None:
        weights = [schedule.at(self.num_steps_done) for schedule in self._schedules]
        self.scheduled_weights.copy_(torch.tensor(weights))

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss at this step."""
        return {
            plan.key: plan.weight if plan.schedule is None else self._schedules[plan.schedule].at(self.num_steps_done)
            for plan in self.plans
        }

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self._schedules and f"{prefix}num_steps" in state_dict:
            self.num_steps_done = int(self.num_steps)
            self._set_weights()

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._schedules:
            # `.half()` would round them.
            self.scheduled_weights = self.scheduled_weights.float()
            self._set_weights()
        return self

    def __getstate__(self) -> dict[str, Any]:
        # What the last step left behind belongs to no copy.
        return {**self.__dict__, "last_step": None}

    # What happened

    def describe(self, predictions: Any = None, targets: Any = None, *, file: TextIO | None = None) -> None:
        """Prints a table: each loss with its unusual settings, its weight, its value, and its shares in the last step.

        The share of the gradient compares the norms of each loss's weighted gradient for the predictions, which are
        computed anew. Large predictions of the last step are known only as long as they are kept elsewhere.

        Args:
            predictions: what to describe in place of the last step; with `targets`, as `forward` takes them.
            targets: likewise.
            file: where to print, if not to the standard output.
        """
        print(description(self, predictions, targets), file=file)

    def extra_repr(self) -> str:
        weights = self.weights
        return "\n".join(f"({index}): {key}, weight {weights[key]:g}" for index, key in enumerate(self.keys))
