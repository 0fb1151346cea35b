"""What a measurement is: the row of a table."""

from __future__ import annotations

from dataclasses import dataclass

# What our own side is called.
OURS = "losskit"


@dataclass(frozen=True)
class Result:
    """A loss, ours or a peer's, on the batch of a case."""

    case: str
    # Whether the case is one of torch's own losses.
    is_plain: bool
    peer: str
    # Of the processor, or the GPU.
    seconds: float
    # Of the clock.
    wall: float
    # The peak of memory; not all can be measured everywhere.
    bytes: int | None
