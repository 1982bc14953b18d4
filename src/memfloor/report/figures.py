"""The figures, each a function from summaries to a matplotlib figure; numbers are the study's own."""

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memfloor.report.colours import MEASURED_COLOUR, PUBLISHED_COLOUR, THRESHOLD_COLOUR
from memfloor.report.paper import PublishedCell, published, published_cells
from memfloor.report.summary import CellSummary
from memfloor.report.tables import runtime_label

# Text that crosses the line of the floor stays readable.
CLEAR = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
# Of the axis of fractions; what lies beyond comes from a cache.
END = 1.25
LABEL_CHARACTERS = 46
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    # The same records must give the same file, byte for byte.
    "svg.hashsalt": "memfloor",
}


def ladder(summaries: Sequence[CellSummary]) -> Figure:
    """Draw Figure 1: the achieved fraction of the floor by device, left, and the step time, right.

    Fractions are of the datasheet peak where one is known and of the paired ceiling elsewhere, as each label says.
    The study's published cells stand below as a reference; their step times are those its fractions imply.
    """
    reference = [cell for cell in published_cells() if cell.context_len == published()["context_len"]]
    with mpl.rc_context(STYLE):
        labels = [_measured_label(item) for item in summaries] + [_published_label(cell) for cell in reference]
        lines = max(label.count("\n") + 1 for label in labels)
        figure = Figure(figsize=(10, 1.3 + 0.21 * lines * len(labels)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_fractions(left, summaries, reference)
        _draw_times(right, summaries, reference)
        left.set_yticks(range(len(labels)), labels)
        left.set_ylim(len(labels) - 0.4, -0.6)
    return figure


def run_distributions(summaries: Sequence[CellSummary]) -> Figure:
    """Draw every timed step of every run: one column of dots per run, so that a lucky process can be seen."""
    with mpl.rc_context(STYLE):
        columns = 1 if len(summaries) < 3 else 2
        rows = -(-len(summaries) // columns)
        figure = Figure(figsize=(10, 0.4 + 2.0 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels[len(summaries) :]:
            axes.set_axis_off()
        for axes, summary in zip(panels, summaries, strict=False):
            for index, run in enumerate(summary.runs, 1):
                milliseconds = [seconds * 1e3 for seconds in run.step_seconds]
                spread = [index + 0.5 * (position / len(milliseconds) - 0.5) for position in range(len(milliseconds))]
                axes.plot(spread, milliseconds, ".", color=MEASURED_COLOUR, markersize=3, alpha=0.6)
                axes.hlines(run.p50_seconds * 1e3, index - 0.3, index + 0.3, color=MEASURED_COLOUR, linewidth=1.6)
                floor_ms = run.fraction_of_ceiling(summary.fractions["streamed"].total_bytes) * run.p50_seconds * 1e3
                axes.hlines(floor_ms, index - 0.3, index + 0.3, color=THRESHOLD_COLOUR, linewidth=1.6)
            axes.set_ylim(bottom=0)
            axes.set_xticks(range(1, len(summary.runs) + 1))
            axes.set_ylabel("step, ms")
            axes.set_title(_measured_label(summary), loc="left", fontsize=7)
        figure.supxlabel(
            "run (dots: timed steps in order; blue: median; orange: floor at the run's own ceiling)", size=10
        )
    return figure


def save(figure: Figure, target: Path | TextIO, file_format: str) -> None:
    """Write a figure as `svg` or `png`; the same figure gives the same bytes."""
    metadata = {"Date": None} if file_format == "svg" else None
    with mpl.rc_context(STYLE):
        figure.savefig(target, format=file_format, dpi=160, metadata=metadata)


def beside(axes: Axes, value: float, row: int, text: str, size: int) -> None:
    """Write what a bar says to the right of its end."""
    # Not with leading blanks, which a browser takes out of an SVG.
    axes.annotate(text, (value, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=size)


FIGURES: dict[str, Callable[[Sequence[CellSummary]], Figure]] = {"1": ladder, "runs": run_distributions}


def _draw_fractions(axes: Axes, summaries: Sequence[CellSummary], reference: Sequence[PublishedCell]) -> None:
    for row, summary in enumerate(summaries):
        fraction = summary.fractions["streamed"]
        shown = fraction.peak or fraction.ceiling
        axes.barh(row, shown.value, color=MEASURED_COLOUR)
        if shown.ci95:
            axes.plot(shown.ci95, [row, row], color="black", linewidth=1.2)
        axes.text(
            min(max(shown.value, shown.ci95[1] if shown.ci95 else 0.0), END) + 0.02,
            row,
            f"{100 * shown.value:.0f} % of {'peak' if fraction.peak else 'ceiling'}",
            va="center",
            fontsize=9,
            bbox=CLEAR,
        )
    for row, cell in enumerate(reference, len(summaries)):
        axes.barh(row, cell.fraction, color=PUBLISHED_COLOUR)
        axes.text(
            cell.fraction + 0.02, row, f"{100 * cell.fraction:.0f} % of peak", va="center", fontsize=9, bbox=CLEAR
        )
    axes.axvline(1.0, color=THRESHOLD_COLOUR, linewidth=1.2)
    axes.set_xlim(0, END)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.set_xlabel("achieved fraction of the floor")


def _draw_times(axes: Axes, summaries: Sequence[CellSummary], reference: Sequence[PublishedCell]) -> None:
    for row, summary in enumerate(summaries):
        milliseconds = summary.p50_seconds.value * 1e3
        fraction = summary.fractions["streamed"]
        bandwidth = summary.peak_bytes_per_second or summary.ceiling_bytes_per_second.value
        axes.barh(row, milliseconds, color=MEASURED_COLOUR)
        axes.plot(
            [fraction.total_bytes / bandwidth * 1e3] * 2, [row - 0.4, row + 0.4], color=THRESHOLD_COLOUR, linewidth=2
        )
        beside(axes, milliseconds, row, f"{milliseconds:.4g}", 9)
    for row, cell in enumerate(reference, len(summaries)):
        milliseconds = cell.implied_step_seconds["paper"] * 1e3
        axes.barh(row, milliseconds, color=PUBLISHED_COLOUR)
        axes.plot([milliseconds * cell.fraction] * 2, [row - 0.4, row + 0.4], color=THRESHOLD_COLOUR, linewidth=2)
        beside(axes, milliseconds, row, f"{milliseconds:.4g}", 9)
    axes.set_xlabel("step time, ms (orange: floor)")
    axes.margins(x=0.15)


def _measured_label(summary: CellSummary) -> str:
    cell = summary.cell
    return f"{summary.device.name}\n{in_lines(f'{cell.spec.name} {runtime_label(cell)} {cell.workload.context_len}')}"


def in_lines(label: str) -> str:
    """Return a label in lines that leave room for the bars, broken between words and options."""
    lines = textwrap.wrap(label.replace(",", ", "), LABEL_CHARACTERS, break_on_hyphens=False)
    return "\n".join(line.replace(", ", ",") for line in lines)


def _published_label(cell: PublishedCell) -> str:
    return f"{cell.device} (published)\n{published()['model']} {cell.context_len}"


def figure_svg(figure: Figure) -> str:
    """Return a figure as an SVG element, without the XML head that HTML does not take."""
    buffer = io.StringIO()
    save(figure, buffer, "svg")
    text = buffer.getvalue()
    return text[text.index("<svg") :]
