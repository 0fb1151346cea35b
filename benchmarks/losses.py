"""How long the losses take and how much memory, forward and backward, beside those of other packages, in one run.

python -m benchmarks.losses [--case NAME ...] [--runs N] [--threads N] [--allocator default|reusing] [--compile]
                            [--device cuda] [--json FILE] [--picture FILE]

The value and the gradient of each peer are compared with ours first, so that the ratios are those of equal work.
Time is that of the processor, of the clock too with several threads; it is the median of runs of all sides in turn.
Memory is the most that is held at once above what was there before: the gradient at least.
A case is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import picture
from benchmarks.cases import CASES
from benchmarks.measuring import Found, Options, measure_in_a_process
from benchmarks.peers import full_name
from benchmarks.results import OURS, Result

Measure = Callable[[Result], float | None]

_MEBIBYTE = 2**20
# By default, glibc gives large blocks back when they are freed, and the system fills each new one with zeros, page by
# page. With these, freed memory stays with the process, as with other allocators.
_TUNABLES = {
    "default": "",
    "reusing": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:glibc.malloc.top_pad=268435456",
}


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


def describe(options: Options, allocator: str) -> str:
    """Where and how it is measured."""
    threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
    if options.device == "cuda":
        return f"losses, forward and backward: {torch.cuda.get_device_name()}"
    return f"losses, forward and backward: {platform.machine()}, {threads}, {allocator} allocator"


def environment_of(allocator: str) -> dict[str, str]:
    """What a process is started with to have it: malloc reads its settings only then."""
    return {"GLIBC_TUNABLES": _TUNABLES[allocator]}


def parser() -> argparse.ArgumentParser:
    """What the command line takes."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = Options()
    names = [case.name for case in CASES]
    found.add_argument("--case", action="append", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    found.add_argument("--runs", type=int, default=usual.runs, help="of which the median is taken")
    found.add_argument("--threads", type=int, default=usual.threads, help="with more than one, also time by the clock")
    found.add_argument("--device", choices=["cpu", "cuda"], default=usual.device)
    found.add_argument(
        "--allocator", choices=[*_TUNABLES], default="default", help="what malloc does with freed memory"
    )
    found.add_argument("--compile", action="store_true", help="also ours under torch.compile")
    found.add_argument("--scale", choices=["full", "small"], default=usual.scale, help="small: to see that all runs")
    found.add_argument("--memory-limit", type=float, default=usual.memory_limit, metavar="GB", help="for each peer")
    found.add_argument("--json", type=Path, metavar="FILE")
    found.add_argument("--picture", type=Path, metavar="FILE", help="SVG or PNG, by its ending")
    return found


def main() -> None:
    """Prints the table as it grows, then the means and what was left out."""
    given = parser().parse_args()
    options = Options(given.runs, given.threads, given.device, given.scale, given.compile, given.memory_limit)
    if given.allocator == "reusing" and platform.libc_ver()[0] != "glibc":
        sys.exit("--allocator reusing needs glibc, whose malloc it sets")
    environment = environment_of(given.allocator)
    title, with_wall = describe(options, given.allocator), options.threads > 1
    print(title)
    heads = ["ms", *(["ms, clock"] if with_wall else []), "MiB"]
    print(f"{'':<58}" + "".join(f"{head:>12}" for head in heads), flush=True)
    everything = Found([], [], {}, {})
    for name in dict.fromkeys(given.case or [case.name for case in CASES]):
        found = measure_in_a_process(name, options, environment)
        if found.results:
            print_table(found.results, with_wall)
        everything.results += found.results
        everything.notes += found.notes
        everything.versions |= found.versions
        everything.missing |= found.missing
    print()
    print_means(everything.results, with_wall)
    print("beside", ", ".join(f"{full_name(name)} {version}" for name, version in everything.versions.items()))
    for note in everything.notes:
        print(note)
    for name, reason in everything.missing.items():
        print(f"{full_name(name)} is not installed: {reason}")
    if given.json:
        content = {"title": title, "allocator": given.allocator, "options": asdict(options), **asdict(everything)}
        given.json.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    if given.picture:
        picture.draw([result for result in everything.results if not result.is_plain], title, given.picture)


if __name__ == "__main__":
    main()
