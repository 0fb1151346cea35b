"""How much memory a peer takes that does not allocate it through torch, by what of the process is resident.

python -m benchmarks.resident CASE PEER [SCALE]

It is a process of its own, which gives freed memory back to the system at once: what the peer takes is then new.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.cases import CASES

ROOT = Path(__file__).parent.parent


def peak_of_process(case: str, peer: str, scale: str) -> int | None:
    """Bytes, measured in a process of its own; `None` where Linux does not tell."""
    command = [sys.executable, "-m", "benchmarks.resident", case, peer, scale]
    tunables = "glibc.malloc.mmap_threshold=65536:glibc.malloc.trim_threshold=65536"
    environment = os.environ | {"GLIBC_TUNABLES": tunables}
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return int(found.stdout) if found.returncode == 0 and found.stdout.strip() else None


def peak_resident(function: Callable[[], object]) -> int | None:
    """The most bytes that were resident while `function` ran, above those at the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
        before = _status("VmRSS")
        function()
        return _status("VmHWM") - before
    except OSError:
        return None


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def main() -> None:
    """Prints the bytes."""
    case, peer, scale = sys.argv[1:]
    torch.set_num_threads(1)
    found = next(one for one in CASES if one.name == case)
    side = next(one for one in found.peers if one.name == peer).side(found.batch(scale))
    # The first run, for XLA keeps what it has freed for the next one.
    peak = peak_resident(side.run)
    print("" if peak is None else peak)


if __name__ == "__main__":
    main()
