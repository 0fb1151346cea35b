"""The picture of weights that change over the steps of training."""

from __future__ import annotations

from collections.abc import Mapping

from losskit.cli.plotting import Line, Panel, Picture
from losskit.diagnostics import cut, listing
from losskit.schema.schedules import CYCLICAL, Schedule

PLACES = 360
CYCLES = 3
# Of losses whose weights are the same all the time, so many are named.
_NAMED = 3


def picture_of_schedules(schedules: Mapping[str, Schedule]) -> Picture:
    """The weights of losses, by the names of these; those that are alike are one line."""
    names: dict[Schedule, list[str]] = {}
    for name, schedule in schedules.items():
        names.setdefault(schedule, []).append(cut(name))
    end = max(map(_shown_steps, names))
    count = min(PLACES, end)
    places = [index * end // count for index in range(count + 1)]
    lines = [
        Line(listing(alike, _NAMED), [schedule.at(place) for place in places], style)
        for style, (schedule, alike) in enumerate(names.items())
    ]
    title = f"{', '.join(line.label for line in lines)}: weight"
    return Picture(title, "steps of the optimizer", places, [Panel("weight", lines)])


def _shown_steps(schedule: Schedule) -> int:
    """How many steps show all that it does: some cycles, or the change and a part of what stays after it."""
    if schedule.kind == CYCLICAL:
        return schedule.warmup + CYCLES * schedule.steps
    changed = schedule.warmup + schedule.steps
    return changed + max(1, changed // 10)
