"""Shows on a terminal how many files have been checked, where that takes longer than a blink."""

from __future__ import annotations

import time

TYPE_CHECKING = False  # as in config.py
if TYPE_CHECKING:
    from typing import TextIO

_FIRST_AFTER, _EVERY = 0.5, 0.1


class Progress:
    """A line that is overwritten; how many files there will be is known only at the end, so it counts up."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.next = time.monotonic() + _FIRST_AFTER
        self.is_there = False

    def advance(self, files: int, *, clear: bool) -> None:
        """Shows the count from time to time; with `clear`, makes room for other output."""
        if clear:
            self.end()
        if time.monotonic() >= self.next:
            self.stream.write(f"\r\x1b[K{files:,} files checked…")
            self.stream.flush()
            self.is_there = True
            self.next = time.monotonic() + _EVERY

    def end(self) -> None:
        """Removes the line."""
        if self.is_there:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self.is_there = False
