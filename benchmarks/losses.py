"""How long the losses take and how much memory, forward and backward, beside those of other packages, in one run.

python -m benchmarks.losses [--case NAME ...] [--runs N] [--threads N] [--allocator default|reusing] [--compile]
                            [--device cuda] [--json FILE] [--picture FILE]

The value and the gradient of each peer are compared with ours first, so that the ratios are those of equal work.
Time is that of the processor, of the clock too with several threads; it is the median of runs of all sides in turn.
Memory is the most that is held at once above what was there before: the gradient at least.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import peers, picture
from benchmarks.cases import CASES, Batch, Case, Peer
from benchmarks.memory import peak_memory
from benchmarks.resident import peak_of_process
from benchmarks.results import OURS, Result

Measure = Callable[[Result], float | None]

# A run repeats what takes less, for a clock has its own grain.
_LEAST_SECONDS = 0.02
# What takes so much longer than ours is run but once after the warm-up: its ratio needs no second digit.
_SLOW = 20
# Relative, and for gradients that of the norm of the difference: some peers add millions of numbers in float32.
_TOLERANCE = 1e-3
_MEBIBYTE = 2**20
# With these, the memory that is freed stays with the process, as it does in one that has run for long, or with other
# allocators; by default, malloc gives large blocks back, and each new one is filled with zeros, page by page.
_REUSING = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456"


@dataclass
class Options:
    """What the command line says."""

    cases: list[str]
    runs: int
    threads: int
    device: str
    scale: str
    compile: bool
    allocator: str
    memory_limit: float


def measure(case: Case, options: Options, notes: list[str]) -> list[Result]:
    """Ours first, then those of its peers that are here and agree."""
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
    return results


def compiled_side(case: Case, batch: Batch, ours: peers.Side, notes: list[str]) -> peers.Side | None:
    """Ours under `torch.compile`; `None` and a note where that does not work."""
    torch.compiler.reset()  # what other cases have compiled counts for the limit of recompilations
    side = case.side(batch, compiled=True)
    try:
        message = difference(ours.result(), side.result())
    except Exception as error:  # a compiler that is missing, or anything that is the compiler's own
        message = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    if message:
        notes.append(f"{OURS} compiled in {case.name}: left out: {message}")
        return None
    return side


def side_of(
    peer: Peer, case: Case, batch: Batch, ours: peers.Side, options: Options, notes: list[str]
) -> peers.Side | None:
    """The peer, ready to run; `None` and a note where it cannot be measured."""
    where = f"{peer.name} in {case.name}"
    if options.scale == "full" and peer.gigabytes > options.memory_limit:
        notes.append(f"{where}: left out, for it takes about {peer.gigabytes:g} GB (--memory-limit)")
        return None
    if peer.package == "optax" and options.device != "cpu":
        return None
    try:
        side = peer.side(batch)
    except ImportError:
        return None  # named once for all cases
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
    for function in sides.values():
        once(function, 1)  # warms up
    first = {name: once(function, 1)[0] for name, function in sides.items()}
    calls = {name: max(1, math.ceil(_LEAST_SECONDS / max(seconds, 1e-9))) for name, seconds in first.items()}
    slow = {name for name, seconds in first.items() if seconds > max(_SLOW * first[OURS], 1)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    gc.collect()
    gc.disable()
    try:
        for run in range(runs):
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


def memory_of(case: Case, peer: Peer | None, side: peers.Side, options: Options) -> int | None:
    """The peak, in bytes."""
    if peer is not None and peer.package == "optax":
        return peak_of_process(case.name, peer.name, options.scale)
    with _without_messages():
        return peak_memory(side.run, options.device)


@contextlib.contextmanager
def _without_messages() -> Iterator[None]:
    """The profiler writes two lines for each of its uses, straight to where errors go."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def print_table(results: Sequence[Result], with_wall: bool) -> None:
    """The rows of a case: ours in milliseconds and mebibytes, the others as multiples of it."""
    ours = results[0]
    for result in results:
        is_ours = result is ours
        columns = [f"{ours.case if is_ours else '':<30}{result.peer:<28}"]
        columns.append(_column(result.seconds, ours.seconds, 1e3, is_ours))
        if with_wall:
            columns.append(_column(result.wall, ours.wall, 1e3, is_ours))
        columns.append(_column(result.bytes, ours.bytes, 1 / _MEBIBYTE, is_ours))
        print("".join(columns), flush=True)


def _column(value: float | None, ours: float | None, unit: float, is_ours: bool) -> str:
    if value is None or ours is None:
        return f"{'?':>12}"
    if is_ours:
        return f"{value * unit:>12,.3f}"
    return f"{value / ours:>11.2f}x"


def print_means(results: Sequence[Result], with_wall: bool) -> None:
    """Over the cases, what ours takes as a part of what the best peer of each case takes."""
    measures: dict[str, Measure] = {"time": _seconds, "memory": _bytes}
    if with_wall:
        measures["time by the clock"] = _wall
    for is_plain, title in ((False, "losses"), (True, "torch's own losses, called through losskit")):
        for name, of in measures.items():
            if ratios := ratios_to_best([result for result in results if result.is_plain == is_plain], of):
                mean = statistics.geometric_mean(ratios)
                print(f"{title}: {name}, losskit / the best peer, geometric mean of {len(ratios)} cases: {mean:.2f}")


def ratios_to_best(results: Sequence[Result], of: Measure) -> list[float]:
    """For each case with a peer: ours by the one that takes least."""
    ratios = []
    for case in dict.fromkeys(result.case for result in results):
        found = {result.peer: of(result) for result in results if result.case == case}
        others = [value for name, value in found.items() if value and not name.startswith(OURS)]
        if others and (ours := found[OURS]):
            ratios.append(ours / min(others))
    return ratios


def _seconds(result: Result) -> float:
    return result.seconds


def _wall(result: Result) -> float:
    return result.wall


def _bytes(result: Result) -> float | None:
    return result.bytes


def describe(options: Options) -> str:
    """Where and how it is measured."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    return f"losses, forward and backward: {device}, {threads}, allocator: {options.allocator}"


def installed(cases: Sequence[Case]) -> tuple[dict[str, str], dict[str, str]]:
    """The versions of the packages that are here of those that have these cases, and why the others are not."""
    here, missing = {}, {}
    for name in sorted({peer.package for case in cases for peer in case.peers}):
        try:
            peers.load(name)
            here[name] = peers.version(name)
        except ImportError as error:
            missing[name] = str(error)
    return here, missing


def use_allocator(name: str) -> None:
    """Begins this program anew under another allocator: malloc reads its settings when a process starts."""
    given = os.environ.get("GLIBC_TUNABLES", "")
    if name == "reusing" and _REUSING not in given:
        if platform.libc_ver()[0] != "glibc":
            sys.exit("--allocator reusing needs the malloc of glibc")
        tunables = f"{given}:{_REUSING}" if given else _REUSING
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": tunables})


def parse() -> tuple[Options, Path | None, Path | None]:
    """The options, and where results and picture go."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [case.name for case in CASES]
    parser.add_argument("--case", action="append", metavar="NAME", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--runs", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--threads", type=int, default=1, help="with more than one, the time of the clock is shown too")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--allocator", choices=["default", "reusing"], default="default", help="of memory on the CPU")
    parser.add_argument("--compile", action="store_true", help="also ours under torch.compile")
    parser.add_argument("--scale", choices=["full", "small"], default="full", help="small: to see that all runs")
    parser.add_argument("--memory-limit", type=float, default=4, metavar="GB", help="leaves out peers that take more")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="SVG or PNG, by its ending")
    given = parser.parse_args()
    if unknown := set(given.case or []) - set(names):
        parser.error(f"no case named {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    options = Options(
        given.case or names,
        given.runs,
        given.threads,
        given.device,
        given.scale,
        given.compile,
        given.allocator,
        given.memory_limit,
    )
    return options, given.json, given.picture


def main() -> None:
    """Prints the table as it grows, then the means and what was left out."""
    options, json_file, picture_file = parse()
    use_allocator(options.allocator)
    torch.set_num_threads(options.threads)
    cases = [case for case in CASES if case.name in options.cases]
    here, missing = installed(cases)
    title = describe(options)
    with_wall = options.threads > 1
    print(title)
    heads = ["ms", *(["ms, clock"] if with_wall else []), "MiB"]
    print(f"{'':<58}" + "".join(f"{head:>12}" for head in heads))
    results: list[Result] = []
    notes: list[str] = []
    for case in cases:
        rows = measure(case, options, notes)
        print_table(rows, with_wall)
        results += rows
    print()
    print_means(results, with_wall)
    print("beside", ", ".join(f"{peers.title(name)} {version}".strip() for name, version in here.items()))
    for name, reason in missing.items():
        notes.append(f"{peers.title(name)} is not installed: {reason}")
    print(*notes, sep="\n")
    if json_file:
        found = {
            "title": title,
            "options": asdict(options),
            "versions": here,
            "notes": notes,
            "results": [asdict(result) for result in results],
        }
        json_file.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    if picture_file:
        picture.draw([result for result in results if not result.is_plain], title, picture_file)


if __name__ == "__main__":
    main()
