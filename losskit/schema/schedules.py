"""Weights of losses that change over the steps of training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from losskit.constants import SCHEDULE_DEFAULTS
from losskit.diagnostics import ERROR, WARNING, show

if TYPE_CHECKING:
    from marshmallow.fields import Field

LINEAR, COSINE, STEP, CYCLICAL = "linear", "cosine", "step", "cyclical"
KINDS = (LINEAR, COSINE, STEP, CYCLICAL)
# The keys of a schedule in a config, and the attributes that they become.
ATTRIBUTES = {
    "schedule": "kind",
    "steps": "steps",
    "from": "start",
    "to": "end",
    "warmup": "warmup",
    "ratio": "ratio",
}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the weight of a loss changes: from `start` to `end` in `steps` steps, after `warmup` steps at `start`.

    A `cyclical` one starts again every `steps` steps, and has risen after the first `ratio` of them, as in
    Fu et al., "Cyclical Annealing Schedule: A Simple Approach to Mitigating KL Vanishing", 2019.

    >>> [Schedule("linear", steps=4, warmup=1).at(step) for step in range(7)]
    [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    kind: str
    start: float = SCHEDULE_DEFAULTS["from"]
    end: float = SCHEDULE_DEFAULTS["to"]
    steps: int = dataclasses.field(kw_only=True)
    warmup: int = int(SCHEDULE_DEFAULTS["warmup"])
    ratio: float = SCHEDULE_DEFAULTS["ratio"]

    def at(self, step: int) -> float:
        """The weight once the optimizer has done `step` steps."""
        done = max(0, step - self.warmup)
        is_cyclical = self.kind == CYCLICAL
        share = done % self.steps / self.steps / self.ratio if is_cyclical else done / self.steps
        if share >= 1:
            return self.end
        if self.kind == STEP:
            return self.start
        if self.kind == COSINE:
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share

    @property
    def largest(self) -> float:
        """The largest weight that it ever has."""
        return max(self.start, self.end)


@overload
def schedule_of(weight: Mapping[str, Any]) -> Schedule: ...


@overload
def schedule_of(weight: float) -> None: ...


def schedule_of(weight: float | Mapping[str, Any]) -> Schedule | None:
    """The schedule that `weight` of a config is; None for a weight that stays the same."""
    if not isinstance(weight, Mapping):
        return None
    return Schedule(**{ATTRIBUTES[key]: value for key, value in weight.items()})


class Objection(NamedTuple):
    """What a rule has against a schedule: the key that is wrong, and a sentence that starts with its name."""

    key: str
    message: str
    code: str
    severity: str
    help: str


def objections(weight: Mapping[str, Any]) -> Iterator[Objection]:
    """What is wrong across the settings of a schedule, each of which is right."""
    if "ratio" in weight and weight["schedule"] != CYCLICAL:
        message = f"has no effect on a {weight['schedule']} schedule, which has no cycles"
        yield Objection("ratio", message, "LK207", ERROR, f"leave it out, or write `schedule: {CYCLICAL}`")
    start, end = (weight.get(key, SCHEDULE_DEFAULTS[key]) for key in ("from", "to"))
    if start == end:
        key = "to" if "to" in weight else "from"
        message = f"is {show(weight[key])}, like `{'from' if key == 'to' else 'to'}`, so the weight never changes"
        yield Objection(key, message, "LK303", WARNING, f"write `weight: {show(weight[key])}`")
    elif weight["schedule"] == CYCLICAL and weight["steps"] == 1:
        message = "is 1, so each cycle ends before the weight changes"
        yield Objection("steps", message, "LK303", WARNING, "write how many steps a cycle has")


def field() -> Field[Any]:
    """The field by which marshmallow loads a schedule, and from which its JSON Schema is written."""
    from losskit.schema import loading  # Here, because marshmallow costs 60 ms.

    numbers, share = loading.number_range(0, None), loading.number_range(0, 1, min_inclusive=False)
    rows: dict[str, tuple[Any, Any, str]] = {
        "schedule": (loading.String, loading.one_of(KINDS), "How the weight changes from `from` to `to`."),
        "steps": (
            loading.Integer,
            loading.number_range(1, None),
            "How many steps of the optimizer that takes; of a cyclical weight, how many a cycle has.",
        ),
        "from": (loading.Float, numbers, "The weight before it changes."),
        "to": (loading.Float, numbers, "The weight after it has changed."),
        "warmup": (loading.Integer, numbers, "How many steps of the optimizer pass before it begins to change."),
        "ratio": (loading.Float, share, "In which part of each cycle a cyclical weight changes."),
    }
    declared = {}
    for key, (make, limits, description) in rows.items():
        given = {"dump_default": SCHEDULE_DEFAULTS[key]} if key in SCHEDULE_DEFAULTS else {"required": True}
        declared[key] = make(validate=limits, metadata={"description": description}, **given)
    return loading.Record("a schedule", declared)
