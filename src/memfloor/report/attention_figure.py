"""Figure 7: decode attention per layer by backend, with the floor of its bytes at the paired ceiling."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from memfloor.report.attention import Attention, AttentionRow
from memfloor.report.by_cell import InvalidCell
from memfloor.report.colours import BLUE, DARK_GREY, GREEN, MEASURED_COLOUR, PUBLISHED_COLOUR, THRESHOLD_COLOUR
from memfloor.report.figures import CLEAR, STYLE
from memfloor.report.tables import workload_text
from memfloor.units import format_seconds

# The project's own and the baseline stand out.
COLOURS = {"engine": GREEN, "sdpa": BLUE}
# Digits of each decade that are marked, where the axis spans fewer than so many times its start.
FINE_DIGITS, COARSE_DIGITS, FINE_SPAN = (1, 2, 5), (1,), 500
REASON_CHARACTERS = 96


@dataclass
class _Panel:
    """Hold what one panel shows: a group of rows for each context, those that could not run below the others."""

    rows: dict[str, list[AttentionRow]] = field(default_factory=lambda: defaultdict(list))
    lost: dict[str, list[InvalidCell]] = field(default_factory=lambda: defaultdict(list))

    @property
    def height(self) -> int:
        return sum(1 + len(rows) + len(self.lost[context]) for context, rows in self.rows.items())


def attention_figure(found: Attention) -> Figure:
    """Draw a panel for each device and model: the time of a layer by backend, contexts as groups."""
    panels = _panels(found)
    with mpl.rc_context(STYLE):
        heights = [panel.height for panel in panels.values()]
        size = (10, 0.9 * len(panels) + 0.27 * sum(heights))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights).flatten()
        for each, (names, panel) in zip(axes, panels.items(), strict=True):
            _draw(each, panel)
            each.set_title(", ".join(names), loc="left", fontsize=10)
        axes[-1].set_xlabel(
            "decode attention of one layer, us (line: 95 % interval; orange: floor at the paired ceiling)"
        )
    return figure


def _panels(found: Attention) -> dict[tuple[str, str], _Panel]:
    """Return a panel by the names of device and model."""
    panels: dict[tuple[str, str], _Panel] = defaultdict(_Panel)
    for row in found.rows:
        cell = row.summary.cell
        panels[row.summary.device.name, cell.spec.name].rows[workload_text(cell)].append(row)
    for item in found.invalid:
        context = workload_text(item.cell)
        for (device, model), panel in panels.items():
            # What was refused before it had a device is shown with every one.
            same_place = item.device is None or item.device.name == device
            if same_place and item.cell.spec.name == model and context in panel.rows:
                panel.lost[context].append(item)
    return panels


def _draw(axes: Axes, panel: _Panel) -> None:
    labels: list[str] = []
    measured = [row for rows in panel.rows.values() for row in rows]
    axes.set_xscale("log")
    axes.set_xlim(
        0.6e6 * min(min(row.floor_seconds, row.seconds.value) for row in measured), 2.2e6 * _longest(measured)
    )
    for context, rows in panel.rows.items():
        axes.text(
            0.0, len(labels), f" context {context}", transform=axes.get_yaxis_transform(), va="center", fontsize=9
        )
        labels.append("")
        for row in rows:
            _draw_row(axes, row, len(labels))
            labels.append(row.summary.cell.runtime_text)
        for item in panel.lost[context]:
            _draw_reason(axes, item, len(labels))
            labels.append(item.cell.runtime_text)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _microseconds(axes)


def _draw_row(axes: Axes, row: AttentionRow, place: int) -> None:
    microseconds = 1e6 * row.seconds.value
    colour = PUBLISHED_COLOUR if row.refused else COLOURS.get(row.summary.cell.runtime, MEASURED_COLOUR)
    axes.hlines(place, *axes.get_xlim(), color="#eef0f2", linewidth=0.8, zorder=0)
    axes.plot([1e6 * row.floor_seconds] * 2, [place - 0.38, place + 0.38], color=THRESHOLD_COLOUR, linewidth=2)
    if row.seconds.ci95:
        axes.plot([1e6 * bound for bound in row.seconds.ci95], [place, place], color=colour, linewidth=2)
    axes.plot(microseconds, place, "o", color=colour, markersize=6)
    said = format_seconds(row.seconds.value) + (", refused" if row.refused else "")
    right = 1e6 * max(row.seconds.value, row.seconds.ci95[1] if row.seconds.ci95 else 0.0)
    axes.annotate(said, (right, place), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8, bbox=CLEAR)


def _draw_reason(axes: Axes, item: InvalidCell, place: int) -> None:
    reason = item.reason if len(item.reason) <= REASON_CHARACTERS else f"{item.reason[: REASON_CHARACTERS - 3]}..."
    axes.text(
        0.01,
        place,
        f"not run: {reason}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color=DARK_GREY,
    )


def _longest(rows: Sequence[AttentionRow]) -> float:
    return max(row.seconds.ci95[1] if row.seconds.ci95 else row.seconds.value for row in rows)


def _microseconds(axes: Axes) -> None:
    low, high = axes.get_xlim()
    digits = FINE_DIGITS if high < FINE_SPAN * low else COARSE_DIGITS
    ticks = [digit * 10.0**power for power in range(-2, 8) for digit in digits if low <= digit * 10.0**power <= high]
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
