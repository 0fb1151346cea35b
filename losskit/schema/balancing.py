"""The settings of the ways to balance the losses of several tasks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from losskit.schema import fields as schema_utils
from losskit.schema.base import BaseConfig, Problem, dataclass

# Beyond this, float32 has no digits left for differences between losses.
_LARGEST = 1_000_000


@dataclass
class BaseBalancingConfig(BaseConfig):
    """The settings of a way to balance losses. Subclasses add their own."""

    def problems(self, num_losses: int | None) -> Iterator[Problem]:
        """What is wrong across settings, or between a setting and the number of losses, where that is known."""
        yield from ()

    @classmethod
    def has_rules(cls) -> bool:
        """Whether `problems` can find anything, so that a validator need not load the class otherwise."""
        return cls.problems is not BaseBalancingConfig.problems


@dataclass
class NoneBalancingConfig(BaseBalancingConfig):
    """No settings."""


@dataclass
class LogTransformBalancingConfig(BaseBalancingConfig):
    """No settings."""


@dataclass
class UncertaintyBalancingConfig(BaseBalancingConfig):
    """No settings: the uncertainties are learned."""


@dataclass
class FAMOBalancingConfig(BaseBalancingConfig):
    """The settings of `famo`; how fast it learns is the learning rate of its parameters in the optimizer."""

    gamma: float = schema_utils.NonNegativeFloat(
        default=0.01,
        max=1,
        description="How strongly the learned weights are drawn back to equal ones (their weight decay).",
    )
    min_losses: list[float] | None = schema_utils.List(
        float,
        default=None,
        min=-_LARGEST,
        max=_LARGEST,
        min_length=1,
        allow_none=True,
        description="The least value that each loss can have, in the order of the losses; null means 0 for each. "
        "Progress is measured from there.",
        examples=[[0.0, -2.0]],
    )

    def problems(self, num_losses: int | None) -> Iterator[Problem]:
        """One number per loss."""
        yield from super().problems(num_losses)
        yield from _length_problems("min_losses", self.min_losses, num_losses)


@dataclass
class GradNormBalancingConfig(BaseBalancingConfig):
    """The settings of `gradnorm`; how fast it learns is the learning rate of its parameters in the optimizer."""

    registered_name: ClassVar[str | None] = "gradnorm"

    alpha: float = schema_utils.NonNegativeFloat(
        default=1.5,
        max=10,
        description="How strongly tasks that learn slowly are pulled along; 0 makes all gradients equally large.",
    )


@dataclass
class NashMTLBalancingConfig(BaseBalancingConfig):
    """The settings of `nash_mtl`."""

    update_every: int = schema_utils.PositiveInteger(
        default=1,
        max=2**31 - 1,
        description="After how many optimizer steps the weights are computed anew; in between, no gradients of single "
        "tasks are taken, which saves their time.",
    )
    max_norm: float | None = schema_utils.FloatRange(
        default=None,
        min=1e-6,
        allow_none=True,
        description="The largest norm that the weighted gradient of the shared parameters may have; larger ones are "
        "scaled down to it. 1.0 is the paper's code.",
        examples=[1.0],
    )
    normalize: bool = schema_utils.Boolean(
        default=True,
        description="Whether the matrix of the gradients is divided by its norm first, as in the paper's code, so that "
        "small gradients make small steps; without, the sum of the weighted gradients always has the same norm.",
    )


@dataclass
class ParetoMTLBalancingConfig(BaseBalancingConfig):
    """The settings of `pareto_mtl`, under Ludwig's names."""

    preference_vector: list[float] | None = schema_utils.List(
        float,
        default=None,
        min=0,
        max=_LARGEST,
        min_length=1,
        allow_none=True,
        description="How much each loss matters, in the order of the losses; divided by their sum. Null prefers none.",
        examples=[[0.7, 0.3]],
    )
    tchebycheff_weight: float = schema_utils.FloatRange(
        default=0.5,
        min=0,
        max=1,
        description="How much the largest of the preferred losses counts, against their sum.",
    )

    def problems(self, num_losses: int | None) -> Iterator[Problem]:
        """One number per loss, and not only zeros."""
        yield from super().problems(num_losses)
        yield from _length_problems("preference_vector", self.preference_vector, num_losses)
        if self.preference_vector and not any(self.preference_vector):
            yield Problem("preference_vector", "has only zeros, so nothing would count")


@dataclass
class DWABalancingConfig(BaseBalancingConfig):
    """The settings of `dwa`."""

    temperature: float = schema_utils.FloatRange(
        default=2.0,
        min=0.01,
        max=_LARGEST,
        description="How even the weights are; a high temperature makes them equal.",
    )
    period: int = schema_utils.PositiveInteger(
        default=100,
        max=2**31 - 1,
        description="Over how many optimizer steps losses are averaged before they are compared with those before; the "
        "paper takes an epoch.",
    )


@dataclass
class PCGradBalancingConfig(BaseBalancingConfig):
    """The settings of `pcgrad`."""

    seed: int = schema_utils.NonNegativeInteger(
        default=0,
        max=2**31 - 1,
        description="What the random order follows from in which gradients are freed from conflicts.",
    )


def _length_problems(name: str, values: list[float] | None, num_losses: int | None) -> Iterator[Problem]:
    if values and num_losses is not None and len(values) != num_losses:
        noun = "number" if len(values) == 1 else "numbers"
        losses = "loss" if num_losses == 1 else "losses"
        message = f"has {len(values)} {noun}, but the config has {num_losses} {losses}; each loss is a task"
        yield Problem(name, message, "LK206")
