"""The setting that almost every loss has."""

from __future__ import annotations

from typing import Any

from losskit.schema import fields as schema_utils
from losskit.schema.base import BaseLossConfig, dataclass


@dataclass
class ReducedLossConfig(BaseLossConfig):
    """For losses that return one value per item, to be averaged or added up.

    The modules also know `none`; a config does not, for there would be nothing to minimise.
    """

    reduction: str = schema_utils.StringOptions(
        options=["mean", "sum"],
        default="mean",
        description="Whether the values of all items are averaged or added up; a sum grows with the batch.",
    )


def reduction_with_batchmean(default: str) -> Any:
    """The setting of losses with several values per sample that peers divide by the number of samples."""
    return schema_utils.StringOptions(
        options=["mean", "batchmean", "sum"],
        default=default,
        description="Whether the values of all items are averaged (`mean`) or added up (`sum`); `batchmean` divides "
        "their sum by the number of samples.",
    )


@dataclass
class GatheringLossConfig(ReducedLossConfig):
    """For losses that compare the samples of a batch with each other."""

    gather: bool = schema_utils.Boolean(
        default=False,
        description="Whether samples are compared with those of all ranks of torch.distributed, in place of those of "
        "their own; in training alone, as ranks may hold different numbers of batches to evaluate. With one process it "
        "changes nothing.",
    )
