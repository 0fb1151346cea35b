"""What a criterion knows of its losses before it sees a batch."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from losskit.modules.base import AdditiveLoss
from losskit.modules.lookup import Lookup, Term

# What a loss does when the batch is cut into parts: it is a sum over a count, a sum, or neither.
MEAN, SUM, NEITHER = "mean", "sum", "neither"


class Plan(NamedTuple):
    """What does not change about a loss from batch to batch."""

    key: str
    feature: str | None
    lookup: Lookup
    weight: float
    schedule: int | None  # the place of its weight among those that change
    kind: str  # one of MEAN, SUM and NEITHER
    is_masked: bool  # whether labels that are NaN are missing
    shares: bool  # whether another loss of the feature may need the same softmax
    is_plain: bool  # whether it takes a tensor each from the predictions and the targets, and nothing else


def planned(terms: Sequence[Term], keys: Sequence[str]) -> list[Plan]:
    """The plan of each term, which results know by its key."""
    places = itertools.count()
    features = [term.feature for term in terms]
    lookups = [Lookup(term) for term in terms]
    return [
        Plan(
            key,
            term.feature,
            lookup,
            term.weight if isinstance(term.weight, (int, float)) else 1.0,
            None if isinstance(term.weight, (int, float)) else next(places),
            _kind(term.module),
            term.missing,
            features.count(term.feature) > 1,
            lookup.is_plain and not term.missing,
        )
        for key, term, lookup in zip(keys, terms, lookups, strict=True)
    ]


def _kind(loss: nn.Module) -> str:
    """What a loss does when a batch is cut into parts."""
    if isinstance(loss, AdditiveLoss):
        return SUM if loss.reduction == "sum" else MEAN
    parameters = inspect.signature(loss.forward).parameters
    if "normalizer" in parameters and callable(getattr(loss, "count", None)):
        return MEAN
    return NEITHER
