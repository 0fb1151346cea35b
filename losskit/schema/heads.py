"""Losses that hold the model's output layer, so that it and the loss can be computed together."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, ClassVar

from losskit.schema import fields as schema_utils
from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.noise import ignore_index, label_smoothing
from losskit.schema.reduced import ReducedLossConfig

_SIZES = "`in_features`, `num_classes` and `cutoffs`"


# Of a layer: 256 GB. What validates must build.
_MAX_NUMBERS = 1 << 36


def _in_features() -> Any:
    return schema_utils.PositiveInteger(
        default=None,
        allow_none=True,
        description="How many numbers the layer before the loss gives for each item.",
        examples=[5],
    )


def _num_classes() -> Any:
    return schema_utils.PositiveInteger(
        default=None,
        allow_none=True,
        description="How many classes there are; without it, as many as the feature says.",
        examples=[3],
    )


def _with_classes_of(feature: FeatureContext | None, settings: dict[str, Any]) -> dict[str, Any]:
    if settings["num_classes"] is None and settings["in_features"] is not None and feature is not None:
        return {**settings, "num_classes": feature.num_classes}
    return settings


def _size_problems(config: Any, feature: FeatureContext, cure: str) -> Iterator[Problem]:
    """What is wrong with the sizes of a layer that the loss makes."""
    if config.in_features is None:
        yield Problem("in_features", f"is missing: it needs {cure}", "LK205")
    if config.num_classes is None and feature.num_classes is None:
        message = f"is missing, and the feature does not say it: it needs {cure}"
        yield Problem("num_classes", message, "LK205")
    elif None not in (config.num_classes, feature.num_classes) and config.num_classes != feature.num_classes:
        message = f"is {config.num_classes}, but the feature has {feature.num_classes} classes"
        yield Problem("num_classes", message, "LK206")
    elif (config.in_features or 0) * (config.num_classes or feature.num_classes or 0) > _MAX_NUMBERS:
        yield Problem("in_features", "times the number of classes is a layer that fits into no memory")


@dataclass
class LinearCrossEntropyLossConfig(ReducedLossConfig):
    example_settings: ClassVar[dict[str, Any]] = {"in_features": 5, "num_classes": 3}

    in_features: int | None = _in_features()
    num_classes: int | None = _num_classes()
    bias: bool = schema_utils.Boolean(
        default=False, description="Whether the layer adds a number of its own to each logit."
    )
    class_weights: Any = schema_utils.ClassWeights(
        description="How much each class counts: a list in the order of the class ids, or a mapping from class "
        "name. The mean divides by the weights of the labels."
    )
    ignore_index: int | None = ignore_index()
    label_smoothing: float = label_smoothing("all classes")

    def settings(self, feature: FeatureContext | None = None) -> dict[str, Any]:
        return _with_classes_of(feature, super().settings(feature))

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(dataclasses.replace(feature, num_classes=self.num_classes or feature.num_classes))
        sizes = [name for name in ("in_features", "num_classes") if getattr(self, name) is not None]
        if sizes and "weight" not in self.inputs:
            cure = "`in_features` and `num_classes`, or neither for a layer that the model has"
            yield from _size_problems(self, feature, cure)
            if "bias" in self.inputs:
                message = "has a `bias`, but no `weight`: the bias of the loss's own layer is `bias: true`"
                yield Problem("inputs", message)
            return
        for name in sizes:
            yield Problem(name, "has no effect: `inputs` names a `weight`, so the loss makes no layer")
        if self.bias:
            cure = "for a layer of its own it needs `in_features` and `num_classes`"
            message = "has no effect on the model's own layer, of which the predictions hold the `bias`"
            yield Problem("bias", message, help=cure)


def _is_divisible(size: int, divisor: float, times: int) -> bool:
    """Whether something is left of a size that is divided so many times, and a layer of that size can be thought of."""
    try:
        return 1 <= size // divisor**times < math.inf
    except (OverflowError, ZeroDivisionError):  # no float holds the power
        return False


@dataclass
class AdaptiveLogSoftmaxLossConfig(ReducedLossConfig):
    example_settings: ClassVar[dict[str, Any]] = {"in_features": 5, "num_classes": 3, "cutoffs": [1]}

    in_features: int | None = _in_features()
    num_classes: int | None = _num_classes()
    cutoffs: Any = schema_utils.List(
        int,
        default=None,
        min=1,
        min_length=1,
        allow_none=True,
        description="Where the class ids, ordered from frequent to rare, are cut into clusters: ids below the first "
        "cut have logits of their own in every step, those behind it only where a label asks for them.",
        examples=[[1], [1, 2]],
    )
    div_value: float = schema_utils.PositiveFloat(
        default=4.0,
        description="By what the size of the hidden layer is divided from each cluster to the next.",
        examples=[2.0],
    )
    head_bias: bool = schema_utils.Boolean(
        default=False, description="Whether the logits of the frequent classes and of the clusters have a bias."
    )
    ignore_index: int | None = ignore_index()

    def settings(self, feature: FeatureContext | None = None) -> dict[str, Any]:
        return _with_classes_of(feature, super().settings(feature))

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from _size_problems(self, feature, _SIZES)
        num_classes = self.num_classes if self.num_classes is not None else feature.num_classes
        if self.cutoffs is None:
            yield Problem("cutoffs", f"is missing: it needs {_SIZES}", "LK205")
            return
        if any(low >= high for low, high in pairwise(self.cutoffs)):
            yield Problem("cutoffs", "must grow from each value to the next")
            return
        elif num_classes is not None and self.cutoffs[-1] >= num_classes:
            message = f"ends with {self.cutoffs[-1]}, which leaves none of {num_classes} classes for the last cluster"
            yield Problem("cutoffs", message)
            return
        last = len(self.cutoffs)
        if self.in_features is not None and not _is_divisible(self.in_features, self.div_value, last):
            message = (
                f"leaves nothing of {self.in_features} features in cluster {last}: each one divides by it once more"
            )
            yield Problem("div_value", message, help="lower `div_value`, or give fewer `cutoffs`")
