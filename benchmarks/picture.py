"""The table as a picture: what peers take in time and in memory, as multiples of ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers import PACKAGES
from benchmarks.results import OURS, Result

# Told apart without colours too.
_MARKERS = "osD^vP*Xph<>"


def draw(results: Sequence[Result], title: str, path: Path) -> None:
    """One line for each case, one marker for each peer; right of 1, ours takes less."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    cases = list(dict.fromkeys(result.case for result in results))
    ours = {result.case: result for result in results if result.peer == OURS}
    others = [result for result in results if result.peer != OURS]
    names = list(dict.fromkeys(_group(result.peer) for result in others))
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 1.8 + 0.27 * len(cases)), sharey=True, layout="constrained", squeeze=False
    )
    for axis, of, label in ((axes[0][0], _time, "time"), (axes[0][1], _memory, "memory")):
        for name, marker in zip(names, _MARKERS * 2, strict=False):
            points = [
                (of(result) / base, cases.index(result.case))
                for result in others
                if _group(result.peer) == name and of(result) and (base := of(ours[result.case]))
            ]
            if points:
                x, y = zip(*points, strict=True)
                axis.scatter(x, y, marker=marker, s=34, label=name, alpha=0.85, linewidths=0, zorder=2)
        _dress(axis, cases, f"{label}, as a multiple of losskit's")
    figure.suptitle(title, fontsize=10)
    handles = {text: handle for axis in axes[0] for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False)
    # No date, so that equal results give equal files.
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _dress(axis: Any, cases: list[str], label: str) -> None:
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8, zorder=1)
    axis.set_yticks(range(len(cases)), cases, fontsize=8)
    axis.set_ylim(len(cases) - 0.5, -0.5)
    axis.grid(axis="both", color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel(label)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.xaxis.set_minor_formatter(lambda value, _: "")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _group(peer: str) -> str:
    """A package has one marker, whatever its variants, and its full name."""
    if peer.startswith(OURS):
        return peer
    name = peer.split(" ", 1)[0]
    return (PACKAGES[name][0] if name in PACKAGES else "") or name


def _time(result: Result) -> float:
    return result.seconds


def _memory(result: Result) -> float:
    return result.bytes or 0
