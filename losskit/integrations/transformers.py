"""Losses for the Trainer of transformers, which wants sums over the items of a step's whole batch, not means.

    from losskit.integrations.transformers import compute_loss_func

    trainer = Trainer(model, args, train_dataset=dataset, compute_loss_func=compute_loss_func("focal", gamma=1.0))

Only how the Trainer calls is known here; transformers is not imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from losskit.building import build, config_of_loss, module_of, term_of
from losskit.diagnostics import listing
from losskit.distributed import Counts, counts
from losskit.modules.base import AdditiveLoss
from losskit.modules.lookup import Term
from losskit.modules.multi_task import MultiTaskLoss
from losskit.modules.plan import MEAN, NEITHER
from losskit.registry import registry
from losskit.schema import signature
from losskit.schema.base import BaseLossConfig, FeatureContext, LossesConfig

_COUNTING = "`class MyTrainer(losskit.integrations.transformers.CountsLabels, Trainer): ...`"
# What tells a path from the name of a loss.
_IN_PATHS = (".yaml", ".yml", ".json", "/", os.sep)


def compute_loss_func(
    source: str | os.PathLike[str] | Mapping[str, Any] | BaseLossConfig | LossesConfig | nn.Module,
    *,
    feature_type: str | None = None,
    **settings: Any,
) -> ComputeLoss:
    """What `Trainer(compute_loss_func=...)` takes: the sum of the losses of all items over their number in the step.

    Args:
        source: a loss as `losskit.create_loss` takes it, such as its name; or a config as `losskit.build` takes it,
            such as a path; or a module that either of them returned.
        feature_type: what a single loss is for; see `losskit.create_loss`.
        **settings: those of a single loss.

    Raises:
        ConfigError: the loss, its settings or the config are wrong.
        ValueError: a loss is no sum over items, so its values for parts of a batch do not add up to that of the whole;
            or the losses of a config have parameters or a schedule, which the Trainer would neither train nor save.
    """
    return ComputeLoss(_criterion(source, feature_type, settings))


class ComputeLoss:
    """The loss of a micro-batch, as its share in that of the step's whole batch.

    `parts` holds the losses of the last call, unweighted, by their keys.
    """

    def __init__(self, criterion: MultiTaskLoss) -> None:
        self.criterion = criterion
        self.features = list(dict.fromkeys(plan.feature for plan in criterion.plans))
        self.parts: dict[str, Tensor] = {}
        if apart := [plan.key for plan in criterion.plans if plan.kind == NEITHER]:
            raise ValueError(
                f"{', '.join(apart)}: no mean over items; the Trainer adds up what the micro-batches of a step give, "
                "and that is not what such a loss is for the whole batch. Take a loss that is a mean over items, or "
                "override `Trainer.compute_loss` and train without accumulation"
            )
        if criterion.balancing is not None and not criterion.balancing.is_additive:
            raise ValueError(
                f"{type(criterion.balancing).__name__} weighs by the losses of the whole batch, of which the Trainer "
                "gives one micro-batch after the other; balance by none, uncertainty or dwa"
            )

    def __call__(
        self,
        outputs: Any,
        labels: Any,
        num_items_in_batch: Tensor | float | Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """The share of a micro-batch in the loss of the step.

        Args:
            outputs: what the model returned: a mapping, such as a `ModelOutput`, a tuple that begins with the logits,
                or these themselves. Of several features, a mapping by feature.
            labels: a tensor. Of several features, or with a mask or weights, a mapping as the criterion takes it.
            num_items_in_batch: how many labels the step's whole batch has, or what `CountsLabels` counts; without it,
                the means of the micro-batch are taken.

        Raises:
            ValueError: the Trainer has not counted the labels, though it trains; or outputs and labels do not fit.
        """
        if num_items_in_batch is None and torch.is_grad_enabled():
            self._check_counted(labels)
        targets = self._targets(labels)
        normalizers: Mapping[str, Any] | None = None
        if isinstance(num_items_in_batch, Mapping):
            normalizers = num_items_in_batch
        elif num_items_in_batch is not None:
            normalizers = self._normalizers(targets, num_items_in_batch)
        total: Tensor
        total, self.parts = self.criterion(self._predictions(outputs, labels), targets, normalizers)
        return total

    def _check_counted(self, labels: Any) -> None:
        """Refuses what the Trainer does not count in training, where it adds up what micro-batches give."""
        if labels is None and any(plan.lookup.targets for plan in self.criterion.plans):
            raise ValueError(
                "the Trainer passes no labels: it leaves out what the model's `forward` does not name; add a parameter "
                "`labels=None` to that, or set TrainingArguments(remove_unused_columns=False)"
            )
        if not isinstance(labels, Tensor):
            found = "labels that are not there" if labels is None else f"labels that are a {type(labels).__name__}"
            raise ValueError(
                f"the Trainer cannot count {found}, and would add up the means of micro-batches; derive a Trainer that "
                f"counts them: {_COUNTING}"
            )

    def counts(self, batches: Iterable[Any]) -> Counts:
        """What losses are divided by in each micro-batch of a step; see `losskit.distributed.counts`."""
        return counts(self.criterion, map(self._targets, batches))

    def _normalizers(self, targets: Any, number: Tensor | float) -> dict[str, Any]:
        """What each mean is divided by where the step has a number of labels; sums are divided by nothing."""
        balancing = self.criterion.balancing
        if balancing is not None and "share" in balancing._takes and torch.is_grad_enabled():
            raise ValueError(
                "balancing of losses needs to know how many micro-batches a step has; derive a Trainer that counts "
                f"them: {_COUNTING}"
            )
        if isinstance(number, Tensor) and number.numel() > 1:
            number = number.flatten()[0]  # with several devices in a process, it stands there once for each
        return {
            plan.key: number * self._items_per_label(plan, loss, targets)
            for plan, loss in zip(self.criterion.plans, self.criterion.losses, strict=True)
            if plan.kind == MEAN
        }

    def _items_per_label(self, plan: Any, loss: nn.Module, targets: Any) -> float:
        """How many items a label is: the Trainer counts each number of a vector, some losses one item.

        It follows from shapes alone, so that it is the same for all micro-batches.
        """
        by_feature = {None: targets} if plan.feature is None else targets
        if not isinstance(loss, AdditiveLoss) or plan.is_masked or plan.lookup.is_absent({}, by_feature):
            return 1.0
        given = plan.lookup.find_targets(by_feature)
        if not given.targets or not given.targets[0].numel():
            return 1.0
        items = loss.item_counts(*given.targets, **given.optional)
        num_items = len(items) if loss.reduction == "batchmean" else items.numel()
        num_labels: int = given.targets[0].numel()
        return num_items / num_labels

    def _targets(self, labels: Any) -> Any:
        features = self.features
        if features == [None]:
            return labels
        if isinstance(labels, Mapping) and (len(features) > 1 or features[0] in labels):
            return labels
        if len(features) == 1:
            return {features[0]: labels}
        raise ValueError(
            f"the labels must be a mapping with {listing(map(repr, features))}, got {type(labels).__name__}"
        )

    def _predictions(self, outputs: Any, labels: Any) -> Any:
        features = self.features
        if isinstance(outputs, (tuple, list)):
            outputs = outputs[0]
        if len(features) > 1:
            if not isinstance(outputs, Mapping):
                found = type(outputs).__name__
                raise ValueError(f"the model must return a mapping with {listing(map(repr, features))}, got {found}")
            # A model may return more, such as its hidden states.
            lookups = [plan.lookup for plan in self.criterion.plans]
            known = {*features}.union(*(lookup.references("predictions") for lookup in lookups))
            return {key: outputs[key] for key in outputs if key in known}
        if isinstance(outputs, Mapping):
            if features[0] in outputs:
                outputs = outputs[features[0]]
            else:
                outputs = {role: self._fitting(value, labels) for role, value in outputs.items()}
        outputs = self._fitting(outputs, labels)
        return outputs if features == [None] else {features[0]: outputs}

    def _fitting(self, value: Any, labels: Any) -> Any:
        """Outputs in the form that losses take, where transformers has another one."""
        if not isinstance(value, Tensor) or not isinstance(labels, Tensor):
            return value
        if value.shape == (*labels.shape, 1):
            return value.squeeze(-1)  # models of one number per item have a column of them
        if value.ndim == 3:
            for loss in self.criterion.losses:
                # Where the classes are is left open without a feature type; here, they are last.
                if getattr(loss, "class_axis", 0) is None:
                    loss.class_axis = -1  # type: ignore[assignment]
        return value


class CountsLabels:
    """For a Trainer whose labels are a mapping: counts for each loss what its mean divides by, over the whole step.

        class MyTrainer(CountsLabels, transformers.Trainer): ...

    It works for labels that are tensors too, and makes weights of classes and items count as in the criterion.
    """

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Counts]:
        """The micro-batches of a step, as the Trainer has them, and the counts of all of them on all processes."""
        trainer: Any = self
        batches, _ = super().get_batch_samples(*args, **kwargs)  # type: ignore[misc]
        found: Counts = trainer.compute_loss_func.counts(batch.get("labels") for batch in batches)
        # The counts allow for gradients that are averaged over processes, and so does the Trainer if it is told to.
        twice = trainer.accelerator.num_processes if trainer.args.average_tokens_across_devices else 1
        return batches, Counts(
            {key: count * twice for key, count in found.items()}, found.num_batches, found.divided_by, found.totals
        )


def _criterion(source: Any, feature_type: str | None, settings: dict[str, Any]) -> MultiTaskLoss:
    if isinstance(source, nn.Module):
        if feature_type is not None or settings:
            raise TypeError("feature_type= and settings belong to a loss by name, but a module was given")
        return source if isinstance(source, MultiTaskLoss) else MultiTaskLoss([_term(source)])
    if _is_one_loss(source):
        config = config_of_loss(source, feature_type, settings)
        context, entry = FeatureContext(feature_type), registry.get(config.type, feature_type)
        criterion = MultiTaskLoss([term_of(entry, config, None, module_of(config, context, entry))])
    elif feature_type is not None or settings:
        raise TypeError("feature_type= and settings belong to a loss by name, but a config was given")
    else:
        criterion = build(source)
    if any(True for _ in criterion.parameters()) or criterion.state_dict():
        raise ValueError(
            "the losses have parameters or a schedule, which the Trainer trains and saves only in the model: "
            "`model.criterion = losskit.build(...)`, then `compute_loss_func(model.criterion)`"
        )
    return criterion


def _is_one_loss(source: Any) -> bool:
    if isinstance(source, str):
        return registry.find(source) is not None or not any(part in source for part in _IN_PATHS)
    if isinstance(source, Mapping):
        return "type" in source and not source.keys() & {"output_features", "losses"}
    return isinstance(source, BaseLossConfig)


def _term(loss: nn.Module) -> Term:
    """A module that is no criterion, as the only loss of one."""
    cls = type(loss)
    roles = signature.roles(cls, cls.forward, skip=1)
    return Term(None, cls.__name__, loss, *roles, *signature.optional_roles(cls, cls.forward))
