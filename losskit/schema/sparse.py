"""Losses whose probabilities can be exactly 0."""

from __future__ import annotations

from collections.abc import Iterator

from losskit.schema.base import FeatureContext, Problem, dataclass
from losskit.schema.noise import ignore_index, ignore_index_problems
from losskit.schema.reduced import ReducedLossConfig


@dataclass
class SparsemaxLossConfig(ReducedLossConfig):
    ignore_index: int | None = ignore_index()

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from ignore_index_problems(self.ignore_index, feature)


@dataclass
class Entmax15LossConfig(ReducedLossConfig):
    ignore_index: int | None = ignore_index()

    def problems(self, feature: FeatureContext) -> Iterator[Problem]:
        yield from super().problems(feature)
        yield from ignore_index_problems(self.ignore_index, feature)
