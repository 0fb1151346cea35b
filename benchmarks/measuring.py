"""Measures one case: its time and its memory, ours beside those of the peers."""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import CASES, Batch, Case, Peer
from benchmarks.memory import peak_memory
from benchmarks.peers import Side, load, version
from benchmarks.resident import peak_of_process
from benchmarks.results import OURS, Result

ROOT = Path(__file__).parent.parent
# A run repeats what takes less, for a clock has its own grain.
_LEAST_SECONDS = 0.02
# What takes so much longer than ours is run but once after the warm-up: its ratio needs no second digit.
_SLOW = 20
# Relative, and for gradients that of the norm of the difference: some peers add millions of numbers in float32.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Options:
    """How a case is measured."""

    runs: int = 7
    threads: int = 1
    device: str = "cpu"
    scale: str = "full"
    compile: bool = False
    # Peers that take more gigabytes are left out.
    memory_limit: float = 4


@dataclass
class Found:
    """What is found of one case, or of several."""

    results: list[Result]
    # What was left out, and why.
    notes: list[str]
    # Versions of the packages that are here, and for the others the reason why not.
    versions: dict[str, str]
    missing: dict[str, str]


def measure_in_a_process(case: str, options: Options, environment: dict[str, str]) -> Found:
    """In a process of its own, for the time that malloc takes depends on all that a process has done before."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.measuring", case, json.dumps(asdict(options)), str(file)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            # The last line is Python's message; a process that was killed has left none.
            reason = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
            return Found([], [f"{case}: not measured: {reason}"], {}, {})
        found = json.loads(file.read_text("utf-8"))
    return Found([Result(**result) for result in found.pop("results")], **found)


def measure(case: Case, options: Options) -> Found:
    """Ours first, then those of its peers that are here and agree."""
    notes: list[str] = []
    versions, missing = installed(case)
    batch = case.batch(options.scale, options.device)
    sides = {OURS: case.side(batch)}
    if options.compile and (side := compiled_side(case, batch, sides[OURS], notes)):
        sides[f"{OURS} compiled"] = side
    for peer in case.peers:
        if side := side_of(peer, case, batch, sides[OURS], options, notes):
            sides[peer.name] = side
    runs = {name: side.run for name, side in sides.items()}
    times = cuda_times(runs, options.runs) if options.device == "cuda" else cpu_times(runs, options.runs)
    by_name = {peer.name: peer for peer in case.peers}
    results = []
    for name, (seconds, wall) in times.items():
        memory = memory_of(case, by_name.get(name), sides[name], options)
        results.append(Result(case.name, case.is_plain, name, seconds, wall, memory))
    return Found(results, notes, versions, missing)


def installed(case: Case) -> tuple[dict[str, str], dict[str, str]]:
    """The versions of the packages that have this case, and why some of them are not here."""
    versions, missing = {}, {}
    for name in dict.fromkeys(peer.package for peer in case.peers):
        try:
            load(name)
            versions[name] = version(name)
        except ImportError as error:
            missing[name] = str(error)
    return versions, missing


def compiled_side(case: Case, batch: Batch, ours: Side, notes: list[str]) -> Side | None:
    """Ours under `torch.compile`; `None` and a note where that does not work."""
    side = case.side(batch, compiled=True)
    try:
        message = difference(ours.result(), side.result())
    except Exception as error:  # a compiler that is missing, or anything that is the compiler's own
        message = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    if message:
        notes.append(f"{OURS} compiled in {case.name}: left out: {message}")
        return None
    return side


def side_of(peer: Peer, case: Case, batch: Batch, ours: Side, options: Options, notes: list[str]) -> Side | None:
    """The peer, ready to run; `None` and a note where it cannot be measured."""
    where = f"{peer.name} in {case.name}"
    if options.scale == "full" and peer.gigabytes > options.memory_limit:
        notes.append(f"{where}: left out, for it takes about {peer.gigabytes:g} GB (--memory-limit)")
        return None
    if peer.package == "optax" and options.device != "cpu":
        notes.append(f"{where}: measured on the CPU only")
        return None
    try:
        side = peer.side(batch)
    except ImportError:
        return None  # it is among the missing
    except AttributeError as error:
        notes.append(f"{where}: this version of it has no such loss ({error})")
        return None
    if message := difference(ours.result(), side.result(), peer.layout):
        notes.append(f"{where}: left out, for it computes something else: {message}")
        return None
    return side


def difference(
    ours: tuple[Tensor, tuple[Tensor, ...]],
    theirs: tuple[Tensor, tuple[Tensor, ...]],
    layout: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    tolerance: float = _TOLERANCE,
) -> str | None:
    """How far value or gradient are from ours, where that is more than rounding."""
    found = {"value": _relative(ours[0], theirs[0])}
    for index, (mine, other) in enumerate(zip(ours[1], theirs[1], strict=True)):
        found[f"gradient {index}"] = _relative(layout(mine), other)
    # A comparison that NaN fails.
    wrong = [f"{name} by {amount:.1e}" for name, amount in found.items() if not amount <= tolerance]
    return ", ".join(wrong) or None


def _relative(ours: Tensor, theirs: Tensor) -> float:
    """In float64, on the CPU."""
    one, other = ours.detach().cpu().double(), theirs.detach().cpu().double()
    return float((one - other).norm() / one.norm())


def cpu_times(sides: dict[str, Callable[[], object]], runs: int) -> dict[str, tuple[float, float]]:
    """Seconds of the processor and of the clock for each side: medians of runs in turn."""

    def once(function: Callable[[], object], calls: int) -> tuple[float, float]:
        start, clock = time.process_time(), time.perf_counter()
        for _ in range(calls):
            function()
        return (time.process_time() - start) / calls, (time.perf_counter() - clock) / calls

    return _in_turn(sides, runs, once)


def cuda_times(sides: dict[str, Callable[[], object]], runs: int) -> dict[str, tuple[float, float]]:
    """Seconds of the GPU, by its own events, and of the clock."""

    def once(function: Callable[[], object], calls: int) -> tuple[float, float]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        clock = time.perf_counter()
        begin.record()
        for _ in range(calls):
            function()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000 / calls, (time.perf_counter() - clock) / calls

    return _in_turn(sides, runs, once)


def _in_turn(
    sides: dict[str, Callable[[], object]],
    runs: int,
    once: Callable[[Callable[[], object], int], tuple[float, float]],
) -> dict[str, tuple[float, float]]:
    first = {name: once(function, 1)[0] for name, function in sides.items()}
    slow = {name for name, seconds in first.items() if seconds > max(_SLOW * first[OURS], 1)}
    # Once more, until malloc has found where all of them fit.
    first |= {name: once(function, 1)[0] for name, function in sides.items() if name not in slow}
    calls = {name: max(1, math.ceil(_LEAST_SECONDS / max(seconds, 1e-9))) for name, seconds in first.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    gc.disable()
    try:
        for run in range(runs):
            gc.collect()
            # Back and forth, so that none is always the one after the largest.
            for name in reversed(sides) if run % 2 else sides:
                if not (run and name in slow):
                    found[name].append(once(sides[name], calls[name]))
    finally:
        gc.enable()
    return {
        name: (statistics.median(cpu for cpu, _ in values), statistics.median(wall for _, wall in values))
        for name, values in found.items()
    }


def memory_of(case: Case, peer: Peer | None, side: Side, options: Options) -> int | None:
    """The peak, in bytes."""
    if peer is not None and peer.package == "optax":
        return peak_of_process(case.name, peer.name, options.scale)
    return peak_memory(side.run, options.device)


def main() -> None:
    """Measures the case that is named, and writes what is found to a file."""
    name, given, file = sys.argv[1:]
    options = Options(**json.loads(given))
    torch.set_num_threads(options.threads)
    case = next(case for case in CASES if case.name == name)
    Path(file).write_text(json.dumps(asdict(measure(case, options))), "utf-8")


if __name__ == "__main__":
    main()
