"""A picture as PNG, drawn by matplotlib."""

from __future__ import annotations

import io
from typing import Any

from losskit.cli.plotting import COLOURS, DASHES, Picture


def png(picture: Picture) -> bytes:
    """The bytes of the file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = len(picture.panels)
    figure = Figure(figsize=(7, 4.2 if panels == 1 else 2.9 * panels), layout="constrained")
    FigureCanvasAgg(figure)  # Needs no display.
    all_axes: Any = figure.subplots(panels, sharex=True, squeeze=False)
    for panel, axes in zip(picture.panels, all_axes[:, 0], strict=True):
        axes.axhline(0, color="#808080", linewidth=0.8)
        axes.grid(alpha=0.25)
        axes.margins(x=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(panel.title, loc="left", fontsize="medium")
        for line in reversed(panel.lines):  # The first one lies on top.
            dashes = DASHES[line.style % len(DASHES)]
            axes.plot(
                picture.places,
                line.numbers,
                color=COLOURS[line.style % len(COLOURS)],
                linewidth=2,
                linestyle=(0, tuple(length / 2 for length in dashes)) if dashes else "-",
                label=line.label,
            )
    axes.set_xlabel(picture.input_label)
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = min(len(labels), max(1, 80 // (longest + 8)))
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=columns, frameon=False)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=144)
    return out.getvalue()
